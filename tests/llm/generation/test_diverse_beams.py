"""Diverse beam search against exhaustive search, and against its definition without a cache."""

import itertools
from collections import Counter
from functools import cache

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from fdpo.llm.generation.diverse_beams import diverse_beams
from tests.llm.generation.tiny import END, PROMPTS, VOCAB


@pytest.fixture(scope="module")
def model() -> GPT2LMHeadModel:
    torch.manual_seed(1)
    config = GPT2Config(
        vocab_size=len(VOCAB), n_positions=32, n_embd=16, n_layer=2, n_head=2, initializer_range=0.4
    )
    return GPT2LMHeadModel(config).eval()


def encoded(prompt: str) -> list[int]:
    return [VOCAB[word] for word in prompt.split()] or [END]


@cache
@torch.no_grad()
def next_log_probs(model: GPT2LMHeadModel, *ids: int) -> list[float]:
    return model(torch.tensor([ids])).logits[0, -1].log_softmax(-1).tolist()


def log_prob(model: GPT2LMHeadModel, start: list[int], ids: tuple[int, ...]) -> float:
    return sum(next_log_probs(model, *start, *ids[:t])[y] for t, y in enumerate(ids))


def test_one_wide_group_is_exhaustive(
    model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerFast
) -> None:
    """With more beams than there are completions, all come out, the likeliest first."""
    every = [
        ids
        for n in (1, 2, 3)
        for ids in itertools.product(range(5), repeat=n)
        if END not in ids[:-1] and (ids[-1] == END or n == 3)
    ]
    results = diverse_beams(
        model, tokenizer, PROMPTS[:2], groups=1, beams=len(every) + 9, max_new_tokens=3
    )
    for prompt, beams in zip(PROMPTS, results, strict=False):
        expected = {ids: log_prob(model, encoded(prompt), ids) for ids in every}
        assert {tuple(beam.ids) for beam in beams} == set(every) and len(beams) == len(every)
        scores = [beam.log_prob or 0.0 for beam in beams]
        assert scores == sorted(scores, reverse=True)
        for beam in beams:
            assert beam.log_prob == pytest.approx(expected[tuple(beam.ids)], abs=1e-4)
            assert beam.truncated == (END not in beam.ids)


def by_definition(
    model: GPT2LMHeadModel, start: list[int], groups: int, beams: int, steps: int, diversity: float
) -> list[list[int]]:
    """Diverse beam search as its docstring says it, one sequence and token at a time."""
    state: list[list[tuple[float, list[int]]]] = [[(0.0, [])] for _ in range(groups)]
    for _ in range(steps):
        taken: Counter[int] = Counter()
        for g in range(groups):
            grown = []
            for score, ids in state[g]:
                if END in ids:
                    grown.append((score, ids, False))
                    continue
                for token, value in enumerate(next_log_probs(model, *start, *ids)):
                    penalised = score + value - diversity * taken[token]
                    grown.append((penalised, [*ids, token], True))
            best = sorted(grown, key=lambda beam: -beam[0])[:beams]
            taken.update(ids[-1] for _, ids, extended in best if extended)
            state[g] = [(score, ids) for score, ids, _ in best]
    return [ids for group in state for _, ids in group]


@pytest.mark.parametrize(
    ("groups", "beams", "diversity"), [(6, 1, 50.0), (3, 2, 0.7), (2, 3, 0.2), (1, 4, 1.0)]
)
@pytest.mark.parametrize("batch_size", [6, 100])
def test_search_is_as_defined(
    model: GPT2LMHeadModel,
    tokenizer: PreTrainedTokenizerFast,
    groups: int,
    beams: int,
    diversity: float,
    batch_size: int,
) -> None:
    results = diverse_beams(
        model,
        tokenizer,
        PROMPTS,
        groups=groups,
        beams=beams,
        max_new_tokens=7,
        batch_size=batch_size,
        diversity=diversity,
    )
    for prompt, completions in zip(PROMPTS, results, strict=True):
        start = encoded(prompt)
        expected = by_definition(model, start, groups, beams, 7, diversity)
        assert [completion.ids for completion in completions] == expected
        for completion in completions:
            plain = log_prob(model, start, tuple(completion.ids))
            assert completion.log_prob == pytest.approx(plain, abs=1e-4)


def test_no_run_of_tokens_repeats(
    model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerFast
) -> None:
    prompts = ["a", "b a c d", "", "c c"]
    kwargs = {"groups": 3, "max_new_tokens": 9}

    def repeated(size: int, **more: int) -> int:
        results = diverse_beams(model, tokenizer, prompts, **kwargs, **more)
        texts = [encoded(p) + c.ids for p, row in zip(prompts, results, strict=True) for c in row]
        runs = [Counter(zip(*(ids[i:] for i in range(size)), strict=False)) for ids in texts]
        return max(max(counts.values(), default=0) for counts in runs)

    assert repeated(2) > 1
    assert repeated(2, no_repeat_ngram_size=2) == 1
    assert repeated(3) > 1
    assert repeated(3, no_repeat_ngram_size=3) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"groups": 0}, "groups 0 and beams 1 must be at least 1"),
        ({"groups": 2, "diversity": -1.0}, "diversity -1.0 not below 0"),
        ({"groups": 2, "no_repeat_ngram_size": 1}, "is 0 or at least 2, not 1"),
    ],
)
def test_wrong_options(
    model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerFast, options: dict, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        diverse_beams(model, tokenizer, PROMPTS, max_new_tokens=2, **options)
