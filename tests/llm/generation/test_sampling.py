"""Sampling follows the model's own distribution, and reports that distribution's log-probs."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from scipy.stats import chisquare
from transformers import GPT2LMHeadModel, PreTrainedTokenizerFast

from fdpo.llm.generation.sampling import sample
from fdpo.llm.generation.scores import completion_log_probs
from fdpo.llm.generation.tokens import prompt_ids
from tests.llm.generation.tiny import END, PROMPTS, VOCAB, scored_alone, sequences


def p_value(observed: torch.Tensor, expected: torch.Tensor) -> float:
    """Pearson's chi-square test, the rare completions in one bin, so that every bin expects 5."""
    order = expected.argsort(descending=True)
    observed, expected = observed[order], expected[order]
    rest = expected.sum() - expected.cumsum(0)
    m = int(((expected >= 5) & (rest >= 5)).sum())
    bins = [torch.cat([v[:m], v[m:].sum()[None]]) for v in (observed, expected)]
    assert m > 4 and bins[1].min() >= 5
    return chisquare(*bins, sum_check=False).pvalue


def chi_square(
    model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerFast, temperature: float
) -> list[float]:
    """p-values, one a prompt, of 4,000 samples against the probabilities of all completions."""
    every = sequences(2)
    samples = sample(
        model,
        tokenizer,
        PROMPTS,
        samples=4000,
        max_new_tokens=2,
        batch_size=16000,
        seed=5,
        temperature=temperature,
    )
    p_values = []
    for ids, completions in zip(prompt_ids(tokenizer, PROMPTS), samples, strict=True):
        expected = torch.tensor([scored_alone(model, ids, y)[0] for y in every]).double().exp()
        assert expected.sum().item() == pytest.approx(1, abs=1e-6)
        counts = Counter(tuple(c.ids) for c in completions)
        observed = torch.tensor([counts[y] for y in every])
        assert observed.sum() == 4000
        p_values.append(p_value(observed.double(), 4000 * expected))
    return p_values


def test_frequencies_match_the_softmax(
    model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerFast
) -> None:
    assert min(chi_square(model, tokenizer, temperature=1.0)) > 1e-3


def test_the_chi_square_test_can_fail(
    model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerFast
) -> None:
    assert max(chi_square(model, tokenizer, temperature=0.8)) < 1e-6


@pytest.mark.parametrize("batch_size", [1, 7, 100])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_log_probs_during_generation_equal_those_after(
    model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerFast, batch_size: int, temperature: float
) -> None:
    samples = sample(
        model,
        tokenizer,
        PROMPTS,
        samples=8,
        max_new_tokens=20,
        batch_size=batch_size,
        seed=0,
        temperature=temperature,
    )
    starts = [ids for ids in prompt_ids(tokenizer, PROMPTS) for _ in range(8)]
    flat = [completion for row in samples for completion in row]
    scored = completion_log_probs(model, starts, [c.ids for c in flat], batch_size=batch_size)
    assert len({len(c.ids) for c in flat}) > 3
    for i, (start, completion) in enumerate(zip(starts, flat, strict=True)):
        log_prob, entropy = scored_alone(model, start, completion.ids)
        assert completion.log_prob == pytest.approx(log_prob, abs=1e-4)
        assert scored.log_probs[i].item() == pytest.approx(log_prob, abs=1e-4)
        assert scored.entropies[i].item() == pytest.approx(entropy, abs=1e-5)


def test_completions_end_or_are_cut(
    model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerFast
) -> None:
    samples = sample(model, tokenizer, PROMPTS, samples=50, max_new_tokens=6, seed=0)
    flat = [completion for row in samples for completion in row]
    assert {completion.truncated for completion in flat} == {True, False}
    for prompt, row in zip(PROMPTS, samples, strict=True):
        for completion in row:
            assert completion.truncated == (END not in completion.ids)
            assert END not in completion.ids[:-1]
            assert len(completion.ids) == 6 or not completion.truncated
            words = [word for i in completion.ids for word, j in VOCAB.items() if i == j != END]
            assert (prompt + completion.text).split() == prompt.split() + words


def test_every_end_token_of_the_generation_config_ends(
    model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model.generation_config, "eos_token_id", [END, VOCAB["d"]])
    samples = sample(model, tokenizer, ["a"], samples=100, max_new_tokens=10, seed=0)
    ends = {completion.ids[-1] for completion in samples[0] if not completion.truncated}
    assert ends == {END, VOCAB["d"]}
    assert all(VOCAB["d"] not in completion.ids[:-1] for completion in samples[0])


def test_the_seed_decides_and_nothing_else(
    model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerFast
) -> None:
    def sampled(seed: int) -> list[list[int]]:
        samples = sample(model, tokenizer, PROMPTS, samples=3, max_new_tokens=8, seed=seed)
        return [completion.ids for row in samples for completion in row]

    model.train()  # its dropout is 0.1
    torch.manual_seed(0)
    state = torch.get_rng_state()
    first = sampled(7)
    assert torch.equal(torch.get_rng_state(), state) and model.training
    torch.manual_seed(1)
    model.eval()
    assert sampled(7) == first != sampled(8) and not model.training


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"max_new_tokens": 31},
            r"prompt 2 \('b a c d b a'\) has 6 tokens; with 31 new ones .* 32",
        ),
        ({"max_new_tokens": 0}, "max_new_tokens must be at least 1, not 0"),
        ({"max_new_tokens": 1, "samples": 0}, "samples 0 must be at least 1"),
        ({"max_new_tokens": 1, "temperature": 0.0}, "temperature 0.0 above 0"),
    ],
)
def test_wrong_options(
    model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerFast, options: dict, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        sample(model, tokenizer, PROMPTS, seed=0, **options)
