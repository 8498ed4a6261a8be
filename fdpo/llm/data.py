"""Preference data for the text trainer from hub, folder or file, as pairs or scored groups."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict, load_dataset
from transformers import PreTrainedTokenizerBase

from fdpo.preferences.pairs import Pair, PairingConfig, split_by_prompt
from fdpo.preferences.schema import preferences_from_rows
from fdpo.runs.rows import read_rows


def load_preferences(
    name: str,
    rank: PairingConfig | None = None,
    *,
    train_split: str = "train",
    test_split: str = "test",
    test_share: float = 0.1,
    seed: int = 0,
) -> tuple[DatasetDict, Counter[str]]:
    """Loads pairs, split into train and test, and counts what was made and dropped on the way.

    Arguments:
        name: A local file or folder, or a hub id, of pairs or of scored groups.
        rank: How scored groups become pairs.
        train_split: The split to train on.
        test_split: The split to hold out, where the data has it.
        test_share: The share of prompts to hold out where it has not.
        seed: The seed of that split.

    Raises:
        ValueError: If the data is missing, malformed or of no use, in one line.
    """
    if Path(name).is_file():
        pairs, counts = preferences_from_rows(read_rows(name), name, rank)
        return _split(pairs, test_share, seed), counts
    if not Path(name).is_dir() and name.count("/") != 1:
        raise ValueError(f"--dataset {name}: no such file or folder, and no hub id (owner/name)")
    # A folder is cached under its path: what stands there now may be something else.
    loaded = load_dataset(name, download_mode="force_redownload" if Path(name).is_dir() else None)
    if train_split not in loaded:
        raise ValueError(f"--dataset {name} has no split {train_split!r}, only {', '.join(loaded)}")
    pairs, counts = _pairs(loaded[train_split], f"{name} ({train_split})", rank)
    if test_split not in loaded:
        return _split(pairs, test_share, seed), counts
    test, _ = _pairs(loaded[test_split], f"{name} ({test_split})", rank)
    return DatasetDict(train=_table(pairs), test=_table(test)), counts


def as_pairs(data: Any, source: str, rank: PairingConfig | None = None) -> Any:
    """Returns a data set, or a dictionary of them, with scored groups made into pairs.

    Raises:
        ValueError: If groups are malformed or make no pair, naming ``source``.
    """
    if isinstance(data, dict):
        return {name: as_pairs(one, f"{source} {name}", rank) for name, one in data.items()}
    if isinstance(data, Dataset) and {"completions", "answers"} & set(data.column_names):
        return _table(_pairs(data, source, rank)[0])
    return data


def _pairs(
    dataset: Dataset, source: str, rank: PairingConfig | None
) -> tuple[list[Pair], Counter[str]]:
    if not len(dataset):
        raise ValueError(f"{source}: no rows")
    return preferences_from_rows(dataset.to_list(), source, rank)


def _split(pairs: list[Pair], test_share: float, seed: int) -> DatasetDict:
    train, test = split_by_prompt(pairs, test_share, seed)
    return DatasetDict(train=_table(train), test=_table(test))


def _table(pairs: list[Pair]) -> Dataset:
    return Dataset.from_list([pair.row() for pair in pairs])


def require_room(
    dataset: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int | None
) -> None:
    """Raises ``ValueError``, naming the first row, if a prompt leaves no room for a completion."""
    if max_length is None or "prompt" not in dataset.column_names:
        return
    for row, prompt in enumerate(dataset["prompt"], 1):
        # A token is at least a byte: a short prompt need not be tokenised to know that it fits.
        if isinstance(prompt, str) and len(prompt.encode()) + 1 >= max_length:
            if (size := len(tokenizer(prompt)["input_ids"])) >= max_length:
                raise ValueError(
                    f"pair {row}: its prompt has {size} tokens and --max_length is {max_length}; "
                    "raise it (up to the model's context) or leave such prompts out"
                )
