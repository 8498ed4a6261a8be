"""Datasets as the text trainer needs them, beyond TRL's tokenisation.

A completion that was sampled up to a length limit did not end there, and must not teach the policy
that it did: ``chosen_truncated`` and ``rejected_truncated`` of a row mark it, and what TRL or a
chat template puts after its text is removed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from datasets import Dataset, IterableDataset
from transformers import ProcessorMixin, TrainingArguments
from trl.data_utils import is_conversational, prepare_multimodal_messages

from fdpo.preferences.pairs import SIDES


def require_chat_template(data: Any, tokenizer: Any, source: str) -> None:
    """Raises `ValueError` if rows are conversations and the tokenizer has no template for them."""
    if tokenizer.chat_template is None and is_conversational(next(iter(data), {})):
        name = tokenizer.name_or_path
        raise ValueError(
            f"{source}: its rows are conversations, and the tokenizer of {name} has no chat "
            "template: choose a chat model, or write the rows as plain texts"
        )


def with_template_kwargs(data: Any) -> Any:
    """Returns a dataset whose rows all have ``chat_template_kwargs``, if some of them have."""
    if "chat_template_kwargs" not in next(iter(data), {}):
        return data

    def filled(row: Mapping[str, Any]) -> dict[str, Any]:
        return {"chat_template_kwargs": row["chat_template_kwargs"] or {}}

    return _map(data, filled, "Reading arguments of chat templates")


def without_added_ends(data: Any, processing_class: Any) -> Any:
    """Returns a tokenised dataset in which nothing follows the text of a truncated completion."""
    marks = {f"{side}_truncated" for side in SIDES}
    if not marks & set(next(iter(data), {})):
        return data
    options = {"fn_kwargs": {"processing_class": processing_class}}
    return _map(data, _without_added_ends, "Removing ends of cut completions", **options)


def _map(data: Any, function: Callable[..., Any], description: str, **options: Any) -> Any:
    """Maps a dataset, whose progress bar has a description, or a stream, which has none."""
    bar = {"desc": description} if isinstance(data, Dataset) else {}
    return data.map(function, **options, **bar)


def _without_added_ends(row: dict[str, Any], processing_class: Any) -> dict[str, list[int]]:
    return {
        f"{side}_ids": _cut(row, side, processing_class)
        for side in SIDES
        if row.get(f"{side}_truncated")
    }


def _cut(row: Mapping[str, Any], side: str, processing_class: Any) -> list[int]:
    ids: list[int] = row[f"{side}_ids"]
    tokenizer = getattr(processing_class, "tokenizer", processing_class)
    if is_conversational(row):
        rendered = _rendered_up_to_text(row, side, processing_class)
        prompt = row["prompt_ids"]
        if rendered is not None and rendered[: len(prompt)] == prompt:
            return rendered[len(prompt) :]
        # the template changes the text: its last end token is the best sign of its end
        ends = [i for i, token in enumerate(ids) if token == tokenizer.eos_token_id]
        return ids[: ends[-1]] if ends else ids
    return ids[:-1] if ids[-1:] == [tokenizer.eos_token_id] else ids


def _rendered_up_to_text(
    row: Mapping[str, Any], side: str, processing_class: Any
) -> list[int] | None:
    """Returns the tokens of prompt and side up to the end of its text, None if they are unknown."""
    messages, tools = [*row["prompt"], *row[side]], row.get("tools")
    is_processor = isinstance(processing_class, ProcessorMixin)
    try:
        rendered = processing_class.apply_chat_template(
            prepare_multimodal_messages(messages) if is_processor else messages,
            tokenize=True,
            return_dict=True,
            continue_final_message=True,
            tools=json.loads(tools) if isinstance(tools, str) else tools,
            **(row.get("chat_template_kwargs") or {}),
        )["input_ids"]
    except ValueError:  # the text is not in the rendered conversation as it is
        return None
    return rendered[0] if is_processor else rendered


def with_pair_index(data: Any, args: TrainingArguments) -> Any:
    """Returns a dataset, or a dictionary of datasets, with the index of each row as a column.

    A stream whose parts go to several processes or workers has none: each counts its own part.
    """
    if isinstance(data, dict):
        return {name: with_pair_index(dataset, args) for name, dataset in data.items()}
    if isinstance(data, Dataset):
        others = data.remove_columns("pair_index") if "pair_index" in data.column_names else data
        return others.add_column("pair_index", list(range(len(data))))
    if not isinstance(data, IterableDataset):
        return data
    # Accelerate gives each process its own parts where there are enough of them
    if 1 < args.world_size <= data.num_shards or args.dataloader_num_workers > 1:
        return data
    return data.map(lambda _, index: {"pair_index": index}, with_indices=True)
