"""Rows of datasets as the trainer trains on them: cut completions, chat templates' arguments."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from fdpo.llm.trainer import FDPOTrainer
from tests.llm.training import config

TURN = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}"
ASK = "{% if add_generation_prompt %}<|assistant|>{% endif %}"
TEMPLATES = {
    "end": TURN + "<eos>{% endfor %}" + ASK,
    "end and newline": TURN + "<eos>\n{% endfor %}" + ASK,
    "a text": TURN + " over\n\n{% endfor %}" + ASK,
    "nothing": TURN + "{% endfor %}" + ASK,
    "trims": TURN.replace("m.content", "m.content | trim") + "<eos>\n{% endfor %}" + ASK,
    "closes": TURN
    + "<eos>\n{% endfor %}"
    + ASK
    + "{% if not add_generation_prompt %}bye{% endif %}",
}


def conversation(chosen: str, rejected: str = " bad", **columns: Any) -> dict[str, Any]:
    return {
        "prompt": [{"role": "user", "content": " was it so great?"}],
        "chosen": [{"role": "assistant", "content": chosen}],
        "rejected": [{"role": "assistant", "content": rejected}],
        **columns,
    }


@pytest.fixture
def tokenizer(tiny_model: Path) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(tiny_model)


def prepared(
    model: Path, folder: Path, rows: list[dict[str, Any]], tokenizer: PreTrainedTokenizerBase
) -> list[dict[str, Any]]:
    trainer = FDPOTrainer(
        str(model), config(folder), train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
    )  # fmt: skip
    return list(trainer.train_dataset)


@pytest.mark.parametrize("name", TEMPLATES)
def test_nothing_follows_the_text_of_a_cut_turn(
    tiny_model: Path, tmp_path: Path, tokenizer: PreTrainedTokenizerBase, name: str
) -> None:
    end = tokenizer.eos_token
    tokenizer.chat_template = TEMPLATES[name].replace("<eos>", end or "")
    text = " the film was so great that"
    rows = [
        conversation(text, chosen_truncated=True, rejected_truncated=False),
        conversation(text, chosen_truncated=False, rejected_truncated=True),
        conversation(text, f" a {end} within", chosen_truncated=None, rejected_truncated=True),
    ]
    cut, whole, within = prepared(tiny_model, tmp_path, rows, tokenizer)
    expected = text.strip() if name == "trims" else text
    assert tokenizer.decode(cut["chosen_ids"]) == expected
    assert tokenizer.decode(whole["rejected_ids"]) == (
        " bad".strip() if name == "trims" else " bad"
    )
    assert tokenizer.decode(within["rejected_ids"]).endswith(f"a {end} within")
    assert cut["prompt_ids"] == whole["prompt_ids"]
    for row, side in ((whole, "chosen"), (cut, "rejected")):
        rendered = tokenizer.apply_chat_template(row["prompt"] + row[side], tokenize=False)
        assert tokenizer.decode(row["prompt_ids"] + row[f"{side}_ids"]) == rendered


def test_a_template_that_changes_the_text_is_cut_at_its_end_token(
    tiny_model: Path, tmp_path: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    end = tokenizer.eos_token or ""
    template = TEMPLATES["end and newline"].replace("m.content", "m.content.split('|')[-1]")
    tokenizer.chat_template = template.replace("<eos>", end)
    rows = [conversation(" so| the film was", chosen_truncated=True)]
    (row,) = prepared(tiny_model, tmp_path, rows, tokenizer)
    assert tokenizer.decode(row["chosen_ids"]) == " the film was"


def test_plain_texts_lose_the_end_that_trl_adds(
    tiny_model: Path, tmp_path: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    rows = [
        {"prompt": " the", "chosen": " film", "rejected": " bad", "chosen_truncated": mark}
        for mark in (True, False, None)
    ]
    cut, *others = prepared(tiny_model, tmp_path, rows, tokenizer)
    assert tokenizer.decode(cut["chosen_ids"]) == " film"
    for row in others:
        assert row["chosen_ids"] == [*cut["chosen_ids"], tokenizer.eos_token_id]
    assert cut["rejected_ids"][-1] == tokenizer.eos_token_id


def test_rows_choose_how_their_template_renders_them(
    tiny_model: Path, tmp_path: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    """Rows without arguments, or with others, are rendered as if they were alone."""
    think = "{% if add_generation_prompt and not quick %} so much{% endif %}"
    tokenizer.chat_template = TEMPLATES["nothing"] + think + "{{ mood or '' }}"
    kwargs: list[dict[str, Any] | None] = [{"quick": True}, None, {"mood": " fine"}]
    rows = [conversation(" good", chat_template_kwargs=one) for one in kwargs]
    for row, one in zip(prepared(tiny_model, tmp_path, rows, tokenizer), kwargs, strict=True):
        whole, alone = (
            tokenizer.apply_chat_template(
                messages, add_generation_prompt=asks, return_dict=True, **(one or {})
            )["input_ids"]
            for messages, asks in ((row["prompt"] + row["chosen"], False), (row["prompt"], True))
        )
        assert row["prompt_ids"] + row["chosen_ids"] == whole
        assert row["prompt_ids"] == alone[: len(row["prompt_ids"])]


def test_arguments_of_the_template_apply_to_a_cut_turn_too(
    tiny_model: Path, tmp_path: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    tokenizer.chat_template = "{{ mood or '' }}" + TEMPLATES["a text"]
    rows = [conversation(" good", chat_template_kwargs={"mood": " fine"}, chosen_truncated=True)]
    (row,) = prepared(tiny_model, tmp_path, rows, tokenizer)
    assert tokenizer.decode(row["prompt_ids"]).startswith(" fine<|user|>")
    assert tokenizer.decode(row["chosen_ids"]) == " good"


def test_conversations_need_a_chat_template(tiny_model: Path, tmp_path: Path) -> None:
    data = Dataset.from_list([conversation(" good")])
    with pytest.raises(ValueError, match="^train_dataset: its rows are conversations, and .*tiny"):
        FDPOTrainer(str(tiny_model), config(tmp_path), train_dataset=data)
