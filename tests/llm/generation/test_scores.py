"""Scores of completions under one and two models, against sums over all completions."""

from __future__ import annotations

import pytest
import torch
from transformers import GPT2LMHeadModel

from fdpo.llm.generation.scores import (
    completion_embeddings,
    completion_kls,
    completion_log_probs,
)
from tests.llm.generation.tiny import random_model, sequences


def test_kls_add_up_to_that_of_whole_completions(model: GPT2LMHeadModel) -> None:
    """Over all completions of at most three tokens, each with its probability."""
    other = random_model(2)
    ends = [list(ids) for ids in sequences(3)]
    starts = [[1, 3]] * len(ends)
    scores = completion_kls(model, other, starts, ends, batch_size=7)
    alone, other_alone = (
        completion_log_probs(scored, starts, ends, batch_size=7) for scored in (model, other)
    )
    assert torch.equal(scores.log_probs, alone.log_probs)
    assert torch.equal(scores.other_log_probs, other_alone.log_probs)
    assert torch.equal(scores.entropies, alone.entropies)
    probability = scores.log_probs.double().exp()
    assert probability.sum().item() == pytest.approx(1, abs=1e-5)
    ratio = (scores.log_probs - scores.other_log_probs).double()
    exact = (probability * ratio).sum().item()
    assert exact > 0.1
    assert (probability * scores.kls).sum().item() == pytest.approx(exact, rel=1e-4)
    same = completion_kls(model, model, starts, ends)
    assert same.kls.abs().max() < 1e-5


def test_embeddings_are_those_of_each_completion_alone(model: GPT2LMHeadModel) -> None:
    ends = [[1, 2, 3], [4], [2, 2, 1, 0], [3, 1]]
    embeddings = completion_embeddings(model, ends, batch_size=3)
    with torch.no_grad():
        for ids, embedding in zip(ends, embeddings, strict=True):
            states = model(torch.tensor([ids]), output_hidden_states=True).hidden_states[-1]
            assert torch.allclose(embedding, states[0].mean(0), atol=1e-5)


def test_empty_completions_are_refused(model: GPT2LMHeadModel) -> None:
    with pytest.raises(ValueError, match="every completion needs at least one token"):
        completion_log_probs(model, [[1]], [[]])
