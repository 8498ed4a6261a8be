"""A reference's samples, drawn once and kept on disk for all runs that compare with it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from fdpo.llm.decoding import Completion, completion_of, end_ids, prompt_ids
from fdpo.llm.generation import sample
from fdpo.reference_cache import OFF, default_folder, fingerprint
from fdpo.rows import read_rows
from fdpo.runs import versions, write_jsonl


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
        folder: Where references' numbers are kept (`fdpo.reference_cache.ReferenceCache.of`);
            ``off`` draws them and keeps nothing.
        options: The other arguments of `sample`.
    """
    if folder == OFF:
        return sample(model, tokenizer, prompts, **options)
    starts, ends = prompt_ids(tokenizer, prompts), end_ids(model, tokenizer)
    config = model.config.to_diff_dict()
    config.pop("_name_or_path", None)
    model_facts = config, model.config._attn_implementation, model.device.type
    name = fingerprint(
        model.named_parameters(), model_facts, starts, sorted(ends), options, versions()
    )
    kept = Path(folder or default_folder() / "reference") / f"samples-{name}.jsonl"
    if not kept.exists():
        drawn = sample(model, tokenizer, prompts, **options)
        write_jsonl(kept, ({"drawn": [[c.ids, c.log_prob] for c in row]} for row in drawn))
    return [
        [completion_of(tokenizer, start, ids, log_prob, ends) for ids, log_prob in row["drawn"]]
        for start, row in zip(starts, read_rows(kept), strict=True)
    ]
