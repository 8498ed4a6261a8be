"""Preference data of the text trainer: loading, pairs of scored groups, checks of prompts."""

from __future__ import annotations

import gzip
from collections import Counter
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict, get_dataset_config_names, load_dataset
from datasets.exceptions import DatasetBuildError
from transformers import PreTrainedTokenizerBase

from fdpo.llm.generation.conversations import Prompt, row_prompts
from fdpo.llm.generation.tokens import decode_text, prompt_ids
from fdpo.llm.pair_datasets import pairs_dataset, pairs_from_dataset
from fdpo.preferences.pairs import SIDES, Pair, PairingConfig, split_by_prompt
from fdpo.preferences.schema import preferences_from_rows
from fdpo.runs.hub import is_hub_id
from fdpo.runs.notes import note
from fdpo.runs.rows import read_rows


def load_preferences(
    name: str,
    pairing: PairingConfig | None = None,
    *,
    config: str | None = None,
    train_split: str = "train",
    test_split: str = "test",
    test_share: float = 0.1,
    seed: int = 0,
) -> tuple[DatasetDict, Counter[str]]:
    """Loads pairs, split into train and test, and counts those that were made and dropped.

    Every pair has its prompt apart from its sides (:mod:`fdpo.preferences.boundaries`).

    Arguments:
        name: A local file or folder, or a hub id, of pairs or of scored groups.
        pairing: The rule that makes pairs of scored groups.
        config: The configuration of a data set that has several.
        train_split: The split to train on.
        test_split: The split to hold out, where the data has it.
        test_share: The share of prompts to hold out where it has not.
        seed: The seed of that split.

    Raises:
        ValueError: If the data is missing, malformed or of no use, in one line.
    """
    if Path(name).is_file():
        if config:
            raise ValueError(f"--dataset_config {config}: {name} is a file, which has none")
        pairs, counts = preferences_from_rows(read_rows(name), name, pairing)
        return _split(pairs, test_share, seed), counts
    loaded = _load(name, config)
    if train_split not in loaded:
        raise ValueError(f"--dataset {name} has no split {train_split!r}, only {', '.join(loaded)}")
    pairs, counts = pairs_from_dataset(loaded[train_split], f"{name} ({train_split})", pairing)
    if test_split not in loaded:
        return _split(pairs, test_share, seed), counts
    test, more = pairs_from_dataset(loaded[test_split], f"{name} ({test_split})", pairing)
    return DatasetDict(train=pairs_dataset(pairs), test=pairs_dataset(test)), counts + more


def _load(name: str, config: str | None) -> DatasetDict:
    if not Path(name).is_dir() and not is_hub_id(name):
        raise ValueError(f"--dataset {name}: no such file or folder, and no hub id (owner/name)")
    _require_rows(Path(name))
    # datasets caches a folder under its path, whose content may have changed
    mode = "force_redownload" if Path(name).is_dir() else None
    try:
        return load_dataset(name, config, download_mode=mode)
    except ValueError as error:
        configs = get_dataset_config_names(name)
        if config in configs or configs == [config or "default"]:
            raise ValueError(f"--dataset {name}: {_first_line(error)}") from error
        raise ValueError(
            f"--dataset {name} has the configurations {', '.join(configs)}: choose one with "
            "--dataset_config"
        ) from error
    except DatasetBuildError as error:
        reason = _first_line(error.__cause__ or error)
        raise ValueError(f"--dataset {name}: cannot be read ({reason})") from error


def _require_rows(folder: Path) -> None:
    """Raises `ValueError` for a JSON file whose first row is null, which crashes Arrow's reader."""
    for file in sorted(folder.rglob("*.json*")) if folder.is_dir() else ():
        with (gzip.open if file.suffix == ".gz" else open)(file, "rb") as rows:
            if rows.read(64).split()[:1] == [b"null"]:
                raise ValueError(f"{file}, row 1: must hold named columns, not null")


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0]


def _split(pairs: list[Pair], test_share: float, seed: int) -> DatasetDict:
    train, test = split_by_prompt(pairs, test_share, seed)
    return DatasetDict(train=pairs_dataset(train), test=pairs_dataset(test))


def with_sampled_tokens(data: Any, tokenizer: PreTrainedTokenizerBase) -> Any:
    """Returns a tokenised dataset with the tokens that were sampled.

    A text that is tokenised again may give other tokens than those that a model sampled, and its
    first tokens may merge with the prompt's. Rows with ``chosen_token_ids`` and
    ``rejected_token_ids`` that the tokenizer decodes to their texts get these as ``chosen_ids`` and
    ``rejected_ids``, after all tokens of their prompt; other rows stay as they are.
    """
    names = {f"{side}_token_ids" for side in SIDES}
    if not (isinstance(data, Dataset) and names <= set(data.column_names)):
        return data
    options = {"fn_kwargs": {"tokenizer": tokenizer}, "desc": "Reading sampled tokens"}
    return data.map(_sampled_tokens, **options)


def _sampled_tokens(
    row: dict[str, Any], tokenizer: PreTrainedTokenizerBase
) -> dict[str, list[int]]:
    sampled = {side: row[f"{side}_token_ids"] for side in SIDES}
    if not isinstance(row.get("prompt"), str) or not all(sampled.values()):
        return {}
    [prompt] = prompt_ids(tokenizer, [row["prompt"]])
    for side, ids in sampled.items():
        text = row[side].removesuffix(tokenizer.eos_token or "")  # which TRL added
        if max(ids) >= len(tokenizer) or decode_text(tokenizer, prompt, ids) != text:
            return {}
    return {"prompt_ids": prompt, **{f"{side}_ids": ids for side, ids in sampled.items()}}


def pair_name(data: Any, index: int) -> str:
    """Returns the name of a pair in an error: its index, with its prompt where it has one."""
    if index < 0:
        return "a pair of this batch"
    prompt = data[index].get("prompt") if isinstance(data, Dataset) else None
    return f"pair {index}" + (f" ({str(prompt)[:60]!r})" if prompt else "")


def check_left_out(given: Any, prepared: Any, name: str, max_length: int | None) -> None:
    """Warns of the rows whose prompts were too long for TRL.

    With ``truncation_mode="keep_start"`` TRL leaves out a row whose prompt alone fills
    ``max_length``: no token of its completions would be left.

    Arguments:
        given: The dataset.
        prepared: The dataset that TRL made of it.
        name: Its name.
        max_length: The longest sequence, in tokens.

    Raises:
        ValueError: If no row is left.
    """
    if not (isinstance(given, Dataset) and isinstance(prepared, Dataset)):
        return
    if not len(prepared):
        raise ValueError(
            f"{name}: no pair is left, every prompt fills --max_length {max_length}: raise it (up "
            "to the model's context), or shorten prompts with --truncation_mode keep_end"
        )
    if left_out := len(given) - len(prepared):
        note(
            f"{name}: {left_out:,} of {len(given):,} pairs are left out: their prompts fill "
            f"max_length {max_length:,}; truncation_mode keep_end shortens them"
        )


def count_shortened_prompts(dataset: Dataset, tokenizer: PreTrainedTokenizerBase) -> int:
    """Counts the rows whose prompt lost its last tokens, because they merge with the completion.

    TRL ends the prompt of a row where the tokens of prompt and prompt with completion differ.

    Arguments:
        dataset: The dataset that the trainer prepared, with ``prompt`` and ``prompt_ids``.
        tokenizer: The tokenizer.
    """
    if not {"prompt", "prompt_ids"} <= set(dataset.column_names):
        return 0
    prompts = row_prompts(dataset)
    distinct = {repr(prompt): prompt for prompt in prompts}
    lengths = {key: _num_tokens(prompt, tokenizer) for key, prompt in distinct.items()}
    rows = zip(prompts, dataset["prompt_ids"], strict=True)
    return sum(len(ids) < lengths[repr(prompt)] for prompt, ids in rows)


def _num_tokens(prompt: Prompt, tokenizer: PreTrainedTokenizerBase) -> int:
    if isinstance(prompt, str):
        return len(tokenizer(prompt)["input_ids"])
    return len(prompt.ids(tokenizer))
