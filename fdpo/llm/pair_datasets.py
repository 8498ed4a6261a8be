"""Datasets of pairs: from scored groups, from rows under other names, and from streams."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from datasets import (
    Dataset,
    IterableDataset,
    Json,
    LargeList,
    List,
    Value,
    concatenate_datasets,
)

from fdpo.preferences.columns import PARSED, canonical_names, find_aliases, renamed
from fdpo.preferences.implicit_prompts import explicit_pair
from fdpo.preferences.pairs import SIDES, Pair, PairingConfig, describe, make_pairs
from fdpo.preferences.schema import (
    explicit_rows,
    groups_from_rows,
    preferences_from_rows,
    sides_from_row,
)
from fdpo.runs.notes import note
from fdpo.runs.rows import as_columns

TEXTS = ("prompt", *SIDES)
IMAGES = {"image", "images"}


def as_pairs(data: Any, source: str, pairing: PairingConfig | None = None) -> Any:
    """Returns a dataset, or a dictionary of datasets, as pairs with explicit prompts.

    Scored groups become pairs. Pairs get the names of columns that are read, and prompts apart from
    their sides; those that have both stay as they are. Pairs without a prompt that both sides share
    are left out, with a note, and with ``pairing.min_gap`` those whose scores are closer. A stream
    is converted as it is read.

    Raises:
        ValueError: If rows are malformed or make no pair, naming ``source``.
    """
    if isinstance(data, dict):
        return {
            name: as_pairs(dataset, f"{source} {name}", pairing) for name, dataset in data.items()
        }
    if isinstance(data, IterableDataset):
        return _streamed(data, source, pairing or PairingConfig())
    if not isinstance(data, Dataset):
        return data
    if {"completions", "answers"} & set(data.column_names):
        return pairs_dataset(pairs_from_dataset(data, source, pairing)[0])
    if not set(SIDES) <= canonical_names(data.column_names):
        return data
    if pairing and pairing.min_gap:
        return pairs_dataset(
            pairs_from_dataset(data, source, PairingConfig(min_gap=pairing.min_gap))[0]
        )
    return _with_prompts(data, source)


def _with_prompts(data: Dataset, source: str) -> Dataset:
    names = [name for name, feature in data.features.items() if _is_read(name, feature)]
    rows = data.select_columns(names).to_list()
    results = explicit_rows(rows, source)
    if results == rows:
        return data
    usable = [index for index, result in enumerate(results) if not isinstance(result, str)]
    if dropped := Counter(result for result in results if isinstance(result, str)):
        note(f"{source}: {describe(dropped | Counter(candidates=len(rows), made=len(usable)))}")
    if not usable:
        raise ValueError(f"{source}: no pair is left")
    read = [result for result in results if not isinstance(result, str)]
    renamed = [name for name in names if name not in read[0]]
    texts = as_columns([{name: row[name] for name in TEXTS} for row in read])
    others = data.remove_columns([*renamed, *(set(TEXTS) & set(names))]).select(usable)
    columns = Dataset.from_dict(texts, on_mixed_types="use_json")
    return concatenate_datasets([others, columns], axis=1) if others.column_names else columns


def _is_read(name: str, feature: Any) -> bool:
    """Returns whether a column is read as text, or may be one under an unknown name."""
    if name in PARSED:
        return False
    if canonical_names([name]) & {*TEXTS, "system"}:
        return True  # also where it holds none: an error says so
    if isinstance(feature, (List, LargeList)):
        return isinstance(feature.feature, (dict, Json))
    texts = ("string", "large_string", "null")
    return isinstance(feature, Json) or isinstance(feature, Value) and feature.dtype in texts


def _streamed(data: IterableDataset, source: str, pairing: PairingConfig) -> IterableDataset:
    first: dict[str, Any] = next(iter(data), {})
    names = find_aliases([first])
    columns = canonical_names(first)
    groups = bool({"completions", "answers"} & columns)
    if IMAGES & columns or not (groups or set(SIDES) <= columns):
        return data
    if not groups:
        if pairing.min_gap:
            raise ValueError(f"{source}: min_gap does not select pairs of a stream: filter it")
        explicit_rows([first], source)  # notes how it is read, for all of them

    def convert(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        row = renamed({name: values[0] for name, values in batch.items()}, names)
        rows = _pairs_of_group(row, source, pairing) if groups else _pair_of_row(row, source)
        return as_columns(rows) or {name: [] for name in row}

    pairs = data.map(convert, batched=True, batch_size=1, remove_columns=list(first))
    if next(iter(pairs), None) is None:
        raise ValueError(f"{source}: no pair is left")
    return pairs


def _pairs_of_group(
    row: dict[str, Any], source: str, pairing: PairingConfig
) -> list[dict[str, Any]]:
    [group] = groups_from_rows([row], source)
    try:
        return [pair.row() for pair in make_pairs([group], **pairing.pairing_options())[0]]
    except ValueError:  # no pair is left of this group
        return []


def _pair_of_row(row: dict[str, Any], source: str) -> list[dict[str, Any]]:
    result = explicit_pair(Pair(*sides_from_row(row, source)))
    if isinstance(result, str):
        note(f"{source}: pairs are left out as they are read: {result.replace('_', ' ')}")
        return []
    return [{**row, **result.row()}]


def pairs_from_dataset(
    dataset: Dataset, source: str, pairing: PairingConfig | None = None
) -> tuple[list[Pair], Counter[str]]:
    """Returns the pairs of a dataset of pairs or scored groups, with their counts.

    Raises:
        ValueError: As `fdpo.preferences.schema.preferences_from_rows`, and where it holds images.
    """
    if not len(dataset):
        raise ValueError(f"{source}: no rows")
    if images := IMAGES & set(dataset.column_names):
        raise ValueError(
            f"{source}: the column {', '.join(images)} is read only from a dataset that is given "
            "to FDPOTrainer"
        )
    return preferences_from_rows(dataset.to_list(), source, pairing)


def pairs_dataset(pairs: Sequence[Pair]) -> Dataset:
    """Returns pairs as a dataset with the columns of all of them."""
    columns = as_columns([pair.row() for pair in pairs])
    if "chat_template_kwargs" in columns:  # which TRL unpacks
        columns["chat_template_kwargs"] = [pair.chat_template_kwargs or {} for pair in pairs]
    return Dataset.from_dict(columns, on_mixed_types="use_json")
