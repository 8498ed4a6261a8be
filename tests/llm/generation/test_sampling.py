"""Sampling draws from the model's own distribution, and what it reports is that distribution's."""

import itertools
from collections import Counter
from collections.abc import Sequence

import pytest
import torch
from scipy.stats import chisquare
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from fdpo.llm.generation.sampling import (
    completion_embeddings,
    completion_kls,
    completion_log_probs,
    first_words,
    openings,
    prompt_ids,
    sample,
)

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
    """log π and mean entropy of one completion by one forward pass, in float64."""
    model.eval()
    with torch.no_grad():
        logits = model(torch.tensor([[*prompt, *ids]])).logits[0].double()
    log_probs = logits[len(prompt) - 1 : -1].log_softmax(-1)
    total = sum(log_probs[t, token].item() for t, token in enumerate(ids))
    return total, -(log_probs.exp() * log_probs).sum(-1).mean().item()


def sequences(length: int) -> list[tuple[int, ...]]:
    """All completions of at most so many tokens, ended or cut."""
    return [
        ids
        for n in range(1, length + 1)
        for ids in itertools.product(range(len(VOCAB)), repeat=n)
        if END not in ids[:-1] and (ids[-1] == END or n == length)
    ]


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
    drawn = sample(
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
    for ids, completions in zip(prompt_ids(tokenizer, PROMPTS), drawn, strict=True):
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
    drawn = sample(
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
    flat = [completion for row in drawn for completion in row]
    scored = completion_log_probs(model, starts, [c.ids for c in flat], batch_size=batch_size)
    assert len({len(c.ids) for c in flat}) > 3
    for i, (start, completion) in enumerate(zip(starts, flat, strict=True)):
        log_prob, entropy = scored_alone(model, start, completion.ids)
        assert completion.log_prob == pytest.approx(log_prob, abs=1e-4)
        assert scored.log_probs[i].item() == pytest.approx(log_prob, abs=1e-4)
        assert scored.entropies[i].item() == pytest.approx(entropy, abs=1e-5)


def test_kls_add_up_to_that_of_whole_completions(model: GPT2LMHeadModel) -> None:
    """Over all completions of at most three tokens, each with its probability."""
    other = random_model(2)
    ends = [list(ids) for ids in sequences(3)]
    starts = [[1, 3]] * len(ends)
    found = completion_kls(model, other, starts, ends, batch_size=7)
    for scores, one in ((found.log_probs, model), (found.other_log_probs, other)):
        assert torch.equal(scores, completion_log_probs(one, starts, ends, batch_size=7).log_probs)
    alone = completion_log_probs(model, starts, ends, batch_size=7)
    assert torch.equal(found.entropies, alone.entropies)
    probability = found.log_probs.double().exp()
    assert probability.sum().item() == pytest.approx(1, abs=1e-5)
    ratio = (found.log_probs - found.other_log_probs).double()
    exact = (probability * ratio).sum().item()
    assert exact > 0.1
    assert (probability * found.kls).sum().item() == pytest.approx(exact, rel=1e-4)
    same = completion_kls(model, model, starts, ends)
    assert same.kls.abs().max() < 1e-5


def test_embeddings_are_those_of_each_completion_alone(model: GPT2LMHeadModel) -> None:
    ends = [[1, 2, 3], [4], [2, 2, 1, 0], [3, 1]]
    found = completion_embeddings(model, ends, batch_size=3)
    with torch.no_grad():
        for ids, embedding in zip(ends, found, strict=True):
            states = model(torch.tensor([ids]), output_hidden_states=True).hidden_states[-1]
            assert torch.allclose(embedding, states[0].mean(0), atol=1e-5)


def test_completions_end_or_are_cut(
    model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerFast
) -> None:
    drawn = sample(model, tokenizer, PROMPTS, samples=50, max_new_tokens=6, seed=0)
    flat = [completion for row in drawn for completion in row]
    assert {completion.truncated for completion in flat} == {True, False}
    for prompt, row in zip(PROMPTS, drawn, strict=True):
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
    drawn = sample(model, tokenizer, ["a"], samples=100, max_new_tokens=10, seed=0)
    ends = {completion.ids[-1] for completion in drawn[0] if not completion.truncated}
    assert ends == {END, VOCAB["d"]}
    assert all(VOCAB["d"] not in completion.ids[:-1] for completion in drawn[0])


def test_the_seed_decides_and_nothing_else(
    model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerFast
) -> None:
    def draw(seed: int) -> list[list[int]]:
        drawn = sample(model, tokenizer, PROMPTS, samples=3, max_new_tokens=8, seed=seed)
        return [completion.ids for row in drawn for completion in row]

    model.train()  # its dropout is 0.1
    torch.manual_seed(0)
    state = torch.get_rng_state()
    first = draw(7)
    assert torch.equal(torch.get_rng_state(), state) and model.training
    torch.manual_seed(1)
    model.eval()
    assert draw(7) == first != draw(8) and not model.training


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
    with pytest.raises(ValueError, match="every completion needs at least one token"):
        completion_log_probs(model, [[1]], [[]])


def test_openings_are_distinct_beginnings_of_own_texts(
    model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerFast
) -> None:
    found = openings(model, tokenizer, 8, words=2, seed=0)
    assert len(set(found)) == 8
    assert all(len(opening.split()) == 2 and opening == opening.strip() for opening in found)
    assert openings(model, tokenizer, 8, words=2, seed=0) == found
    with pytest.raises(ValueError, match="only [34] distinct openings of 1 words, not 5"):
        openings(model, tokenizer, 5, words=1, seed=0, rounds=3)


@pytest.mark.parametrize(
    ("text", "words", "opening"),
    [
        (" A film\nof\tthe year ", 3, "A film\nof"),
        ("A film of", 3, ""),
        ("A film ", 3, ""),
        ("", 1, ""),
        ("word " * 10, 1, "word"),
        ("x" * 5000 + " y", 2, ""),
        ("Once. Twice.", None, "Once"),
        ("Never ends", None, ""),
        ("Ends.", None, ""),
    ],
)
def test_opening_of(text: str, words: int | None, opening: str) -> None:
    assert first_words(text, words) == opening
