"""A tiny language model over five words, its tokenizer, and exact scores of its completions."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

VOCAB = {"<end>": 0, "a": 1, "b": 2, "c": 3, "d": 4}
PROMPTS = ["a", "b a c d b a", "", "c c"]
END = 0


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    words = Tokenizer(models.WordLevel(VOCAB, unk_token="a"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<end>")


@pytest.fixture(scope="module")
def model() -> GPT2LMHeadModel:
    """A random model that is far from uniform, with a generation config that must not matter."""
    return random_model(1)


def random_model(seed: int) -> GPT2LMHeadModel:
    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=len(VOCAB), n_positions=32, n_embd=16, n_layer=2, n_head=2, initializer_range=0.6
    )
    model = GPT2LMHeadModel(config)
    model.generation_config.eos_token_id = END
    model.generation_config.top_k = 2
    model.generation_config.repetition_penalty = 5.0
    return model


def scored_alone(
    model: GPT2LMHeadModel, prompt: Sequence[int], ids: Sequence[int]
) -> tuple[float, float]:
    """Returns log π and mean entropy of a completion by one forward pass, in float64."""
    model.eval()
    with torch.no_grad():
        logits = model(torch.tensor([[*prompt, *ids]])).logits[0].double()
    log_probs = logits[len(prompt) - 1 : -1].log_softmax(-1)
    total = sum(log_probs[t, token].item() for t, token in enumerate(ids))
    return total, -(log_probs.exp() * log_probs).sum(-1).mean().item()


def sequences(length: int) -> list[tuple[int, ...]]:
    """Returns all completions of at most so many tokens, ended or cut."""
    return [
        ids
        for n in range(1, length + 1)
        for ids in itertools.product(range(len(VOCAB)), repeat=n)
        if END not in ids[:-1] and (ids[-1] == END or n == length)
    ]
