"""Datasets given as objects: pairs with explicit prompts, whatever their columns and their kind."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, DatasetDict
from datasets import Image as ImageFeature
from PIL import Image

from fdpo.llm.config import FDPOConfig
from fdpo.llm.pair_datasets import as_pairs
from fdpo.llm.trainer import FDPOTrainer
from fdpo.preferences.pairs import PairingConfig

USER, GOOD, BAD = (
    {"role": role, "content": content}
    for role, content in (("user", "q"), ("assistant", "good"), ("assistant", "bad"))
)
HH = "\n\nHuman: q\n\nAssistant: You"


def row(**columns: Any) -> dict[str, Any]:
    return columns


CASES = {
    "transcript": (
        row(chosen=f"{HH} are", rejected=f"{HH} were"),
        row(prompt=HH.removesuffix(" You"), chosen=" You are", rejected=" You were"),
    ),
    "text": (
        row(chosen="A film? Yes", rejected="A film? Yellow"),
        row(prompt="A film?", chosen=" Yes", rejected=" Yellow"),
    ),
    "conversation": (
        row(chosen=[USER, GOOD], rejected=[USER, BAD]),
        row(prompt=[USER], chosen=[GOOD], rejected=[BAD]),
    ),
    "repeated messages": (
        row(prompt=[USER], chosen=[USER, GOOD], rejected=[USER, BAD]),
        row(prompt=[USER], chosen=[GOOD], rejected=[BAD]),
    ),
    "copied text": (
        row(prompt="q", chosen=[USER, GOOD], rejected=[USER, BAD]),
        row(prompt=[USER], chosen=[GOOD], rejected=[BAD]),
    ),
    "null": (
        row(prompt=None, chosen="It was good", rejected="It was bad"),
        row(prompt="It was", chosen=" good", rejected=" bad"),
    ),
    "alias": (
        row(question="q", chosen="It was good", rejected="It was bad"),
        row(prompt="q", chosen="It was good", rejected="It was bad"),
    ),
}


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_prompts_are_made_explicit(case: str, streamed: bool) -> None:
    given, expected = CASES[case]
    data = Dataset.from_list([{**given, "margin": i} for i in range(3)])
    pairs = as_pairs(data.to_iterable_dataset() if streamed else data, "train_dataset")
    assert list(pairs) == [{**expected, "margin": i} for i in range(3)]


def test_other_columns_stay(tmp_path: Path) -> None:
    Image.new("RGB", (2, 2)).save(tmp_path / "a.png")
    columns = {"image": [str(tmp_path / "a.png")], "chosen": ["It was good"], "n": [[1, 2]]}
    data = Dataset.from_dict({**columns, "rejected": ["It was bad"]})
    data = data.cast_column("image", ImageFeature())
    [pair] = as_pairs(data, "train_dataset")
    assert pair["prompt"] == "It was" and pair["n"] == [1, 2] and pair["image"].size == (2, 2)


def test_explicit_pairs_stay_as_they_are() -> None:
    text = Dataset.from_list([row(prompt="p", chosen="a", rejected="b", score_chosen=1.0)])
    dialogue = Dataset.from_list([row(prompt=[USER], chosen=[GOOD], rejected=[BAD], tools="[]")])
    other = Dataset.from_list([row(prompt_ids=[1], chosen_ids=[2], rejected_ids=[3])])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for data in (text, dialogue, other):
            assert as_pairs(data, "train_dataset") is data
        both = as_pairs(DatasetDict(a=text, b=dialogue), "eval_dataset")
    assert both["a"] is text and both["b"] is dialogue


def test_pairs_without_a_prompt_are_left_out_aloud() -> None:
    rows = [
        row(chosen=f"{HH} are", rejected=f"{HH} were"),
        row(chosen=f"{HH} are", rejected=HH.replace("q", "r")),
        row(chosen=f"{HH} are", rejected=HH.removesuffix(" You")),
    ]
    data = Dataset.from_list(rows)
    counts = "dropped: 1 different prompts, 1 without response"
    with pytest.warns(UserWarning, match=f"train_dataset: 1 pairs made of 3 candidates; {counts}"):
        assert len(as_pairs(data, "train_dataset")) == 1
    with pytest.warns(UserWarning) as notes:
        assert len(list(as_pairs(data.to_iterable_dataset(), "train_dataset"))) == 1
    left_out = [str(note.message) for note in notes if "left out" in str(note.message)]
    reasons = ("different prompts", "without response")
    assert left_out == [f"train_dataset: pairs are left out as they are read: {r}" for r in reasons]
    with pytest.raises(ValueError, match="train_dataset: no pair is left"):
        as_pairs(data.select([1, 2]), "train_dataset")


def test_mistakes_name_the_dataset_and_the_row() -> None:
    nothing = {"role": "assistant", "content": None}
    rows = [row(prompt=[USER], chosen=[GOOD], rejected=[BAD])]
    rows += [row(prompt=[USER], chosen=[nothing], rejected=[BAD])]
    message = r"eval_dataset a, row 2: chosen\[0\] \(role assistant\) has no content"
    with pytest.raises(ValueError, match=message):
        as_pairs({"a": Dataset.from_list(rows)}, "eval_dataset")
    sides = row(ask="Is it any good?", chosen="a film", rejected="a play")
    with pytest.raises(ValueError, match="train_dataset: no column prompt, but ask"):
        as_pairs(Dataset.from_list([sides]), "train_dataset")


def test_a_gap_selects_pairs() -> None:
    rows = [row(prompt=f"p{i}", chosen="a", rejected="b", score_chosen=i, score_rejected=0)
            for i in range(4)]  # fmt: skip
    pairs = as_pairs(Dataset.from_list(rows), "train_dataset", PairingConfig(min_gap=2))
    assert pairs["prompt"] == ["p2", "p3"]
    stream = Dataset.from_list(rows).to_iterable_dataset()
    with pytest.raises(ValueError, match="train_dataset: min_gap does not select pairs of a strea"):
        as_pairs(stream, "train_dataset", PairingConfig(min_gap=2))


def test_streamed_groups() -> None:
    rows = [row(prompt=f"p{i}", completions=["a", "b", "c"], scores=[i, 1.0, 2.0]) for i in (0, 2)]
    rows.insert(1, row(prompt="tie", completions=["a", "b"], scores=[1.0, 1.0]))
    data, pairing = Dataset.from_list(rows), PairingConfig(rule="all")
    pairs = as_pairs(data, "train_dataset", pairing)
    assert len(pairs) == 5
    assert list(as_pairs(data.to_iterable_dataset(), "t", pairing)) == pairs.to_list()


def test_the_trainer_trains_on_the_response_alone(tiny_model: Path, tmp_path: Path) -> None:
    sides = [f"\n\nHuman: was it good\n\nAssistant: I {end}" for end in ("loved it", "hated it")]
    trainer = FDPOTrainer(
        str(tiny_model),
        FDPOConfig(str(tmp_path)),
        train_dataset=Dataset.from_list([row(chosen=sides[0], rejected=sides[1])]),
    )
    [pair], tokenizer = trainer.train_dataset, trainer.processing_class
    assert tokenizer.decode(pair["prompt_ids"]).endswith("\n\nAssistant:")
    assert tokenizer.decode(pair["chosen_ids"], skip_special_tokens=True) == " I loved it"
    assert tokenizer.decode(pair["rejected_ids"], skip_special_tokens=True) == " I hated it"
