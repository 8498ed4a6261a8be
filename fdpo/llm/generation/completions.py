"""Completions of prompts as the options say: sampled, or by diverse beam search."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from fdpo.llm.generation.conversations import Prompt, prompt_text
from fdpo.llm.generation.diverse_beams import diverse_beams
from fdpo.llm.generation.options import CompletionArguments
from fdpo.llm.generation.sampling import sample
from fdpo.llm.generation.tokens import prompt_ids, require_room
from fdpo.preferences.generate import Complete, Completion
from fdpo.runs.seeds import derived_seed
from fdpo.scorers import Scorer


def completer(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    options: CompletionArguments,
    seed: int = 0,
) -> Complete:
    """Returns the function that completes a part of the prompts of a data set.

    Arguments:
        model: A causal language model.
        tokenizer: Its tokenizer.
        options: The options of the completions.
        seed: The seed; each part has a seed derived from it.
    """

    def complete(part: int, prompts: Sequence[str]) -> list[list[Completion]]:
        if options.method == "diverse_beams":
            return diverse_beams(
                model,
                tokenizer,
                prompts,
                groups=options.completions,
                max_new_tokens=options.max_new_tokens,
                batch_size=options.generation_batch_size,
                diversity=options.diversity,
                no_repeat_ngram_size=options.no_repeat_ngram_size,
            )
        return sample(
            model,
            tokenizer,
            prompts,
            samples=options.completions,
            max_new_tokens=options.max_new_tokens,
            batch_size=options.generation_batch_size,
            seed=derived_seed(seed, part),
            temperature=options.temperature,
        )

    return complete


def require_usable(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    scorers: Iterable[Scorer],
    max_new_tokens: int,
) -> None:
    """Raises `ValueError` for faults that would show only later: a long prompt, a bad scorer."""
    require_room(model, prompts, prompt_ids(tokenizer, prompts), max_new_tokens)
    require_scores(scorers, prompts)


def require_scores(scorers: Iterable[Scorer], prompts: Sequence[Prompt]) -> None:
    """Raises what scorers raise for the first prompts, `ValueError` where they return no scores."""
    if texts := [prompt_text(prompt) for prompt in prompts[:2]]:
        for scorer in scorers:
            scorer(texts, texts)
