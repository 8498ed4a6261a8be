"""Prompts of a preference dataset: texts, and conversations that a chat template renders."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from transformers import PreTrainedTokenizerBase

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True)
class Conversation:
    """The messages of a prompt, for a model with a chat template.

    Arguments:
        messages: The messages, each with its ``role`` and ``content``.
        template_kwargs: Further arguments of the chat template.
    """

    messages: list[dict[str, Any]]
    template_kwargs: dict[str, Any] = field(default_factory=dict)

    def ids(self, tokenizer: PreTrainedTokenizerBase) -> list[int]:
        """Tokenises the messages as TRL does, up to where the assistant's answer begins."""
        rendered = tokenizer.apply_chat_template(
            self.messages, add_generation_prompt=True, return_dict=True, **self.template_kwargs
        )
        return rendered["input_ids"]

    @property
    def text(self) -> str:
        """The contents of the messages, a paragraph each; a completion follows as the next one."""
        return "".join(f"{_content_text(message)}\n\n" for message in self.messages)


Prompt = str | Conversation
"""A prompt of a language model."""


def prompt_text(prompt: Prompt) -> str:
    """Returns the text of a prompt, for scorers and readers."""
    return prompt if isinstance(prompt, str) else prompt.text


def row_prompt(row: Mapping[str, Any]) -> Prompt:
    """Returns the prompt of a row, messages with its ``chat_template_kwargs``."""
    if isinstance(row["prompt"], str):
        return row["prompt"]
    return Conversation(row["prompt"], row.get("chat_template_kwargs") or {})


def row_prompts(dataset: Dataset) -> list[Prompt]:
    """Returns the prompt of each row of a dataset."""
    columns = [name for name in ("prompt", "chat_template_kwargs") if name in dataset.column_names]
    return list(map(row_prompt, dataset.select_columns(columns)))


def distinct_prompts(dataset: Dataset) -> list[Prompt]:
    """Returns the prompts of a dataset in order, each once."""
    return list({repr(prompt): prompt for prompt in row_prompts(dataset)}.values())


def _content_text(message: Mapping[str, Any]) -> str:
    content = message.get("content") or ""
    if isinstance(content, str):
        return content
    return "".join(part.get("text") or "" for part in content)
