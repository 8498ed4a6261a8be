"""Estimators against exact sums over an enumerable pair of models."""

import math

import pytest
import torch

from fdpo import estimators

K, PROMPTS, SAMPLES = 6, 400, 8


@pytest.fixture(scope="module")
def models() -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities of a policy and a reference over K responses of each prompt."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, PROMPTS, K, generator=generator, dtype=torch.float64)
    policy, reference = logits.log_softmax(-1)
    return policy, reference


def draw(log_probs: torch.Tensor, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.multinomial(log_probs.exp(), SAMPLES, replacement=True, generator=generator)


def test_reverse_kl_and_js_are_within_four_standard_errors(
    models: tuple[torch.Tensor, torch.Tensor],
) -> None:
    policy, reference = models
    ratio = policy - reference
    own, base = (ratio.gather(1, draw(p, seed)) for p, seed in ((policy, 1), (reference, 2)))
    kl = estimators.reverse_kl(own)
    # The exact value of these prompts; the error over prompts also covers their choice.
    assert abs(kl.value - (policy.exp() * ratio).sum(1).mean().item()) < 4 * kl.error
    mixture = torch.logaddexp(policy, reference) - math.log(2)
    exact = (policy.exp() * (policy - mixture) + reference.exp() * (reference - mixture)).sum(1)
    js = estimators.jensen_shannon(own, base)
    assert abs(js.value - exact.mean().item()) < 4 * js.error
    assert 0 < js.value < 2 * math.log(2)


def test_error_is_that_of_the_mean_over_prompts() -> None:
    values = torch.tensor([[1.0, 3.0], [5.0, 7.0], [0.0, 2.0]])
    means = [2.0, 6.0, 1.0]
    spread = math.sqrt(sum((m - 3) ** 2 for m in means) / 2)
    assert estimators.mean(values) == pytest.approx((3.0, spread / math.sqrt(3)))
    assert math.isnan(estimators.mean(values[:1]).error)


def test_error_shrinks_with_prompts_and_not_with_copies() -> None:
    values = torch.randn(100, 1, generator=torch.Generator().manual_seed(0))
    copied = values.repeat(1, 10)
    assert estimators.mean(copied).error == pytest.approx(estimators.mean(values).error)


@pytest.mark.parametrize(
    ("samples", "share"),
    [
        (["a b c", "a b c"], 0.5),
        (["a b c", "d e f"], 1.0),
        (["A b", "a B"], 0.5),
        (["a a a a"], 1 / 3),
    ],
)
def test_distinct_2_counts_word_pairs_of_all_samples(samples: list[str], share: float) -> None:
    assert estimators.distinct_n([samples]).value == pytest.approx(share)


def test_distinct_2_ignores_words_beyond_the_budget_and_empty_prompts() -> None:
    long = ["x y " + "a b " * 50, "x y"]
    assert estimators.distinct_n([long, ["one"]], budget=2).value == pytest.approx(0.5)
