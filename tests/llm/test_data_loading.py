"""Loading of preference data: files, folders, configurations, and the real dialogues of HH."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from fdpo.llm.data import load_preferences
from fdpo.preferences.boundaries import first_question
from fdpo.preferences.pairs import PairingConfig, describe

PAIR = {"prompt": "p", "chosen": "a", "rejected": "b"}


def write(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


def test_columns_are_those_of_all_rows(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"chosen": "It was good.", "rejected": "It was bad."}]
    rows += [{**PAIR, "prompt": f"p{i}", "rejected_truncated": i == 3} for i in range(8)]
    data, counts = load_preferences(str(write(tmp_path / "a.jsonl", rows)), test_share=0)
    assert data["train"]["prompt"] == ["It was", *(f"p{i}" for i in range(8))]
    assert data["train"]["rejected_truncated"] == [None, *(i == 3 for i in range(8))]
    assert counts["made"] == 9


def test_arguments_of_the_chat_template_survive(tmp_path: Path) -> None:
    """Each row has its own, without those of others, as the template is called with them."""
    arguments = [{"enable_thinking": False}, {}, {"words": ["a"], "enable_thinking": True}]
    rows = [
        {**PAIR, "prompt": f"p{i}", **({"chat_template_kwargs": kwargs} if kwargs else {})}
        for i, kwargs in enumerate(arguments)
    ]
    data, _ = load_preferences(str(write(tmp_path / "a.jsonl", rows)), test_share=0)
    assert [row["chat_template_kwargs"] for row in data["train"]] == arguments


def test_what_a_split_of_its_own_drops_is_counted(tmp_path: Path) -> None:
    tie = {**PAIR, "chosen_score": 1.0, "rejected_score": 1.0}
    write(tmp_path / "data" / "train.jsonl", [{**PAIR, "chosen_score": 2.0, "rejected_score": 1.0}])
    write(tmp_path / "data" / "test.jsonl", [tie, {**tie, "rejected_score": 0.0}])
    data, counts = load_preferences(str(tmp_path / "data"))
    assert len(data["train"]) == len(data["test"]) == 1
    assert describe(counts) == "2 pairs made of 3 candidates; dropped: 1 equal scores"


def test_configurations(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    write(folder / "x.jsonl", [{**PAIR, "prompt": "x"}])
    write(folder / "y.jsonl", [{**PAIR, "prompt": "y"}])
    configs = "".join(f"- config_name: {n}\n  data_files: {n}.jsonl\n" for n in "xy")
    (folder / "README.md").write_text(f"---\nconfigs:\n{configs}---\n")
    for name in "xy":
        data, _ = load_preferences(str(folder), config=name, test_share=0)
        assert data["train"]["prompt"] == [name]
    message = "data has the configurations x, y: choose one with --dataset_config$"
    for config in (None, "z"):
        with pytest.raises(ValueError, match=message):
            load_preferences(str(folder), config=config)
    with pytest.raises(ValueError, match="--dataset_config x: .*x.jsonl is a file, which has none"):
        load_preferences(str(folder / "x.jsonl"), config="x")


def test_folders_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.jsonl").write_text('{"chosen": \n')
    with pytest.raises(ValueError, match="--dataset .*data: cannot be read") as caught:
        load_preferences(str(tmp_path / "data"))
    assert "\n" not in str(caught.value)


def test_images_are_not_lost(tmp_path: Path) -> None:
    write(tmp_path / "data" / "train.jsonl", [{**PAIR, "images": ["a.png"]}])
    with pytest.raises(ValueError, match="the column images is read only from a dataset"):
        load_preferences(str(tmp_path / "data"))


def test_a_gap_without_scores(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", [PAIR])
    with pytest.raises(ValueError, match="a.jsonl: min_gap 1 compares scores, and no pair has"):
        load_preferences(str(file), PairingConfig(min_gap=1))


def test_real_dialogues(data_dir: Path) -> None:
    """Each of HH's 2,354 rows is trained on, held out or counted with its reason."""
    data, counts = load_preferences(str(data_dir / "hh/helpful-base_test.jsonl.gz"))
    assert describe(counts) == (
        "2,339 pairs made of 2,354 candidates; "
        "dropped: 4 without response, 9 different prompts, 2 equal texts"
    )
    assert len(data["train"]) + len(data["test"]) == 2339
    train, test = ({first_question(p) for p in data[name]["prompt"]} for name in data)
    assert not train & test and len(test) == round(0.1 * len(train | test))
    for split in data.values():
        for row in split:
            assert row["prompt"].endswith("\n\nAssistant:")
            assert row["chosen"].startswith(" ") and row["rejected"].startswith(" ")
