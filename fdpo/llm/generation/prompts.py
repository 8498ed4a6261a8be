"""Prompts that a language model samples itself: the first words of its own texts."""

from __future__ import annotations

from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from fdpo.llm.generation.sampling import sample
from fdpo.llm.generation.tokens import context_length
from fdpo.preferences.prompts import first_words
from fdpo.runs.distributed import is_main_process, partial_state
from fdpo.runs.files import is_readable
from fdpo.runs.rows import read_rows, write_rows
from fdpo.runs.seeds import derived_seed


def sample_prompts(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    n: int,
    *,
    words: int | None = 8,
    seed: int,
    batch_size: int = 64,
    rounds: int = 20,
) -> list[str]:
    """Samples texts from a model and returns n distinct prompts, their first words.

    Arguments:
        model: A causal language model.
        tokenizer: Its tokenizer.
        n: The number of prompts.
        words: The length of a prompt (:func:`fdpo.preferences.prompts.first_words`).
        seed: The seed.
        batch_size: Texts in a batch.
        rounds: Rounds of sampling, at most.

    Raises:
        ValueError: If all rounds give fewer distinct prompts.
    """
    prompts: dict[str, None] = {}
    room = context_length(model) or 1024
    length = min(3 * (words or 20) + 8, room - 1)
    for turn in range(rounds):
        texts = sample(
            model,
            tokenizer,
            [""] * (n - len(prompts) + n // 4 + 8),  # some are too short, some equal
            max_new_tokens=length,
            batch_size=batch_size,
            seed=derived_seed(seed, turn),
        )
        prompts |= dict.fromkeys(filter(None, (first_words(c.text, words) for [c] in texts)))
        if len(prompts) >= n:
            return list(prompts)[:n]
    raise ValueError(
        f"the model gives only {len(prompts)} distinct prompts of {words} words, not {n}"
    )


def sampled_prompts(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    n: int,
    *,
    words: int | None = 8,
    seed: int = 0,
    file: Path,
) -> list[str]:
    """Samples prompts into a file of rows (`sample_prompts`), or reads those in it.

    The first process of a launcher samples them for all.
    """

    def read(file: Path) -> list[str]:
        texts = [str(row["prompt"]) for row in read_rows(file)]
        if len(texts) != n:
            raise ValueError(f"it holds {len(texts):,} prompts, not {n:,}")
        return texts

    if is_main_process() and not is_readable(file, read):
        prompts = sample_prompts(model, tokenizer, n, words=words, seed=seed)
        write_rows(file, ({"prompt": prompt} for prompt in prompts))
    partial_state().wait_for_everyone()
    return read(file)
