"""Prompts that a model samples itself."""

from __future__ import annotations

import pytest
from transformers import GPT2LMHeadModel, PreTrainedTokenizerFast

from fdpo.llm.generation.prompts import sample_prompts


def test_prompts_are_distinct_beginnings_of_sampled_texts(
    model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerFast
) -> None:
    prompts = sample_prompts(model, tokenizer, 8, words=2, seed=0)
    assert len(set(prompts)) == 8
    assert all(len(prompt.split()) == 2 and prompt == prompt.strip() for prompt in prompts)
    assert sample_prompts(model, tokenizer, 8, words=2, seed=0) == prompts
    with pytest.raises(ValueError, match="only [34] distinct prompts of 1 words, not 5"):
        sample_prompts(model, tokenizer, 5, words=1, seed=0, rounds=3)
