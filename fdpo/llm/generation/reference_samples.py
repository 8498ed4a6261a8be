"""A reference's samples, drawn once and kept on disk for all runs that compare with it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from fdpo.llm.generation.decoder import Completion, decode_completion, end_ids, prompt_ids
from fdpo.llm.generation.sampling import sample
from fdpo.runs.cache import OFF, cached_file, fingerprint, model_config, reference_folder
from fdpo.runs.files import write_jsonl
from fdpo.runs.folder import versions
from fdpo.runs.rows import read_rows


def reference_samples(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    *,
    folder: str | None = None,
    **options: Any,
) -> list[list[Completion]]:
    """Draws completions as `fdpo.llm.generation.sample` does, or reads what it drew before.

    Kept are the ids and log π of each, under a name that holds the model's weights and
    configuration, the ids of prompts and end tokens, the options, the device's type and the
    versions of fdpo and the libraries below it.

    Arguments:
        model: The reference.
        tokenizer: Its tokenizer.
        prompts: The prompts.
        folder: Where references' numbers are kept (`fdpo.runs.cache.ReferenceCache.open`);
            ``off`` draws them and keeps nothing.
        options: The other arguments of `sample`.
    """
    if folder == OFF:
        return sample(model, tokenizer, prompts, **options)
    starts, ends = prompt_ids(tokenizer, prompts), end_ids(model, tokenizer)
    provenance = model_config(model), model.config._attn_implementation, model.device.type
    name = fingerprint(
        model.named_parameters(), provenance, starts, sorted(ends), options, versions()
    )
    file = reference_folder(folder) / f"samples-{name}.jsonl"

    def write(path: Path) -> None:
        completions = sample(model, tokenizer, prompts, **options)
        rows = ({"drawn": [[c.ids, c.log_prob] for c in row]} for row in completions)
        write_jsonl(path, rows)

    cached_file(file, write)
    return [
        [decode_completion(tokenizer, start, ids, log_prob, ends) for ids, log_prob in row["drawn"]]
        for start, row in zip(starts, read_rows(file), strict=True)
    ]
