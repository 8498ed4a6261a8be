"""Samples of a reference, cached on disk for all runs that compare with it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from fdpo.llm.generation.conversations import Prompt
from fdpo.llm.generation.sampling import sample
from fdpo.llm.generation.tokens import decode_completion, end_ids, prompt_ids
from fdpo.preferences.generate import Completion
from fdpo.runs.cache import OFF, cached, fingerprint, model_config, reference_folder
from fdpo.runs.files import write_jsonl
from fdpo.runs.folder import versions
from fdpo.runs.rows import read_rows


def reference_samples(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    *,
    folder: str | None = None,
    **options: Any,
) -> list[list[Completion]]:
    """Samples completions as `sampling.sample` does, or reads them from a cache.

    The cache holds the ids and log π of each, under a name by the model's weights and
    configuration, the ids of prompts and end tokens, the options, the device's type and the
    versions of fdpo and the libraries below it.

    Arguments:
        model: The reference.
        tokenizer: Its tokenizer.
        prompts: The prompts.
        folder: The folder of the cache (`fdpo.runs.cache.ReferenceCache.open`); ``off`` samples
            without one.
        options: The other arguments of `sample`.
    """
    parent = None if folder == OFF else reference_folder(folder)
    if parent is None:
        return sample(model, tokenizer, prompts, **options)
    starts, ends = prompt_ids(tokenizer, prompts), end_ids(model, tokenizer)
    provenance = model_config(model), model.config._attn_implementation, model.device.type
    name = fingerprint(
        model.named_parameters(), provenance, starts, sorted(ends), options, versions()
    )

    def read(path: Path) -> list[list[Completion]]:
        rows = [row["drawn"] for row in read_rows(path)]
        if len(set(map(len, rows))) != 1:
            raise ValueError("its prompts have different numbers of samples")
        return [
            [decode_completion(tokenizer, start, ids, log_prob, ends) for ids, log_prob in row]
            for start, row in zip(starts, rows, strict=True)
        ]

    def write(path: Path, completions: list[list[Completion]]) -> None:
        write_jsonl(path, ({"drawn": [[c.ids, c.log_prob] for c in row]} for row in completions))

    return cached(
        parent / f"samples-{name}.jsonl",
        lambda: sample(model, tokenizer, prompts, **options),
        read=read,
        write=write,
    )
