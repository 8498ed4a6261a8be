"""Prompts that are conversations: the tokens of the chat template, and the text for scorers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from datasets import Dataset
from transformers import GPT2LMHeadModel, PreTrainedTokenizerFast

from fdpo.llm.evaluate import SamplingConfig, compare
from fdpo.llm.generation.conversations import (
    Conversation,
    Prompt,
    distinct_prompts,
    prompt_text,
)
from fdpo.llm.generation.sampling import sample
from fdpo.llm.generation.tokens import prompt_ids

TEMPLATE = (
    "{% for m in messages %}{{ 'a' if m.role == 'user' else 'b' }} {{ m.content }} {% endfor %}"
    "{% if add_generation_prompt %}{{ 'd' if short else 'b' }}{% endif %}"
)
QUESTION: list[dict[str, Any]] = [{"role": "user", "content": "c c"}]


@pytest.fixture
def chat(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def test_the_tokens_are_those_of_the_rendered_messages(chat: PreTrainedTokenizerFast) -> None:
    prompts: list[Prompt] = [
        Conversation(QUESTION),
        Conversation(QUESTION, {"short": True}),
        "a c c b",
    ]
    texts = ("a c c b", "a c c d", "a c c b")
    assert prompt_ids(chat, prompts) == [chat(text)["input_ids"] for text in texts]


def test_samples_are_those_of_the_rendered_text(
    model: GPT2LMHeadModel, chat: PreTrainedTokenizerFast
) -> None:
    options = {"samples": 3, "max_new_tokens": 6, "seed": 2}
    rendered = sample(model, chat, ["a c c b"], **options)
    assert sample(model, chat, [Conversation(QUESTION)], **options) == rendered


def test_scorers_and_rows_get_the_text_of_the_messages(
    model: GPT2LMHeadModel, chat: PreTrainedTokenizerFast
) -> None:
    read: list[str] = []

    def scorer(prompts: Sequence[str], completions: Sequence[str]) -> list[float]:
        read.extend(prompts)
        return [float(len(text)) for text in completions]

    parts = [{"type": "text", "text": "c"}, {"type": "text", "text": "a"}]
    turns = [*QUESTION, {"role": "assistant", "content": "d"}, {"role": "user", "content": parts}]
    prompts: list[Prompt] = [Conversation(QUESTION), "b"]
    assert prompt_text(Conversation(turns)) == "c c\n\nd\n\nca\n\n"
    sampling = SamplingConfig(samples=2, max_new_tokens=4)
    comparison = compare(model, model, chat, prompts, {"length": scorer}, sampling)
    assert read == ["c c\n\n", "c c\n\n", "b", "b"] * 2
    assert [row["prompt"] for row in comparison.rows] == read


def test_prompts_of_rows_are_distinct_with_their_arguments() -> None:
    rows: list[dict[str, Any]] = [
        {"prompt": QUESTION, "chat_template_kwargs": {"short": True}},
        {"prompt": QUESTION, "chat_template_kwargs": {"short": False}},
        {"prompt": QUESTION, "chat_template_kwargs": {"short": True}},
    ]
    expected = [Conversation(QUESTION, {"short": short}) for short in (True, False)]
    assert distinct_prompts(Dataset.from_list(rows)) == expected
    texts = Dataset.from_list([{"prompt": "b"}, {"prompt": "a"}, {"prompt": "b"}])
    assert distinct_prompts(texts) == ["b", "a"]
