"""Estimators against exact sums over enumerable models: 12 responses, or 3 tokens of 3 words."""

import itertools
import math
from functools import cache

import pytest
import scipy
import torch
from torch import Tensor

from fdpo import DIVERGENCES, Divergence, divergence_from_generator, estimators, get_divergence
from fdpo.estimators.estimate import Estimate

K, PROMPTS, SAMPLES, DRAWS = 12, 40, 4, 100

# A new entry of DIVERGENCES is tested with its default parameters, without a change here.
CASES = [
    *(kind() for kind in DIVERGENCES.values()),
    *(get_divergence("alpha", alpha=a) for a in (-0.5, 1e-3, 0.3, 0.7, 1, 2)),
    get_divergence("skew_js", t=0.1),
    0.7 * get_divergence("js") + 0.3 * get_divergence("chi2_kl"),
    divergence_from_generator(lambda u: u * u.log(), name="custom_reverse_kl"),
    divergence_from_generator(lambda u: (1 - u) ** 2 / (u + 1), name="vincze_le_cam"),
]
SIDES = ["both", "policy", "reference"]
REVERSE, FORWARD = get_divergence("reverse_kl"), get_divergence("forward_kl")


@cache
def world(spread: float) -> tuple[Tensor, Tensor]:
    """Log-probabilities of a policy and a reference over K responses."""
    generator = torch.Generator().manual_seed(1)
    policy, reference = spread * torch.randn(2, K, generator=generator, dtype=torch.float64)
    return policy.log_softmax(0), reference.log_softmax(0)


@cache
def log_ratios(spread: float) -> tuple[Tensor, Tensor]:
    """Log-ratios of samples of both, with shape (draws, prompts, samples)."""
    policy, reference = world(spread)
    generator = torch.Generator().manual_seed(2)
    size = DRAWS * PROMPTS * SAMPLES
    samples = [p.exp().multinomial(size, True, generator=generator) for p in (policy, reference)]
    on_policy, on_reference = (
        (policy - reference)[i].view(DRAWS, PROMPTS, SAMPLES) for i in samples
    )
    return on_policy, on_reference


def exact(d: Divergence, spread: float) -> float:
    policy, reference = world(spread)
    return (reference.exp() * d.f((policy - reference).exp())).sum().item()


def estimate(d: Divergence, policy: Tensor, reference: Tensor, sides: str) -> Estimate:
    return estimators.divergence(
        d, None if sides == "reference" else policy, None if sides == "policy" else reference
    )


@pytest.mark.parametrize("sides", SIDES)
@pytest.mark.parametrize("d", CASES, ids=str)
def test_divergence_is_unbiased_and_its_error_is_that_of_repeated_samples(
    d: Divergence, sides: str
) -> None:
    estimates = [estimate(d, *both, sides) for both in zip(*log_ratios(0.6), strict=True)]
    values, errors = (torch.tensor([each[i] for each in estimates]).double() for i in (0, 1))
    assert abs(values.mean() - exact(d, 0.6)) < 4 * values.std() / math.sqrt(DRAWS)
    assert 0.75 < errors.square().mean().sqrt() / values.std() < 1.3


@pytest.mark.parametrize("spread", [0.2, 0.6, 1.5])
@pytest.mark.parametrize("d", CASES, ids=str)
def test_samples_of_both_have_the_least_error(d: Divergence, spread: float) -> None:
    on_policy, on_reference = (ratios.flatten(0, 1) for ratios in log_ratios(spread))
    both, policy, reference = (estimate(d, on_policy, on_reference, sides) for sides in SIDES)
    assert abs(both.value - exact(d, spread)) < 4 * both.error
    assert both.error <= 1.02 * min(policy.error, reference.error)


def test_one_side_gives_the_textbook_means() -> None:
    on_policy, on_reference = (ratios[0] for ratios in log_ratios(0.6))

    def power(x: Tensor, exponent: float, alpha: float) -> Tensor:
        return torch.expm1(exponent * x) / (alpha * (alpha - 1))

    below, above, tiny = (get_divergence("alpha", alpha=a) for a in (0.3, 0.7, 1e-3))
    for result, each in [
        (estimators.reverse_kl(on_policy), on_policy),
        (estimators.forward_kl(on_reference), -on_reference),
        (estimators.divergence(below, on_policy), power(on_policy, -0.3, 0.3)),
        (estimators.divergence(above, None, on_reference), power(on_reference, 0.3, 0.7)),
        (estimators.divergence(tiny, None, on_reference), tiny.f(on_reference.exp())),
        (
            estimators.divergence(REVERSE, None, on_reference),
            on_reference.exp() * on_reference - on_reference.exp() + 1,
        ),
    ]:
        assert result[:2] == pytest.approx(estimators.mean(each)[:2], rel=1e-12)
    plain = estimators.mean(power(on_reference, 1 - 1e-3, 1e-3))
    assert plain.error > 300 * estimators.divergence(tiny, None, on_reference).error


def test_models_without_overlap() -> None:
    far = torch.full((3, 2), 1000.0)
    for name, value in [
        ("reverse_kl", 1000), ("forward_kl", 1000), ("jeffreys", 2000), ("js", 2 * math.log(2)),
        ("squared_hellinger", 2), ("alpha", 4),
    ]:  # fmt: skip
        result = estimators.divergence(get_divergence(name), far, -far)
        assert result[:2] == pytest.approx((value, 0), abs=1e-9) and not result.warning
    mixed = torch.tensor([[1000.0, -1000.0], [3.0, -800.0]])
    for d, sides in itertools.product(CASES, SIDES):
        assert not math.isnan(estimate(d, mixed, mixed, sides).value), (d, sides)


def test_equal_models_have_no_divergence_and_no_warning() -> None:
    rounding = 1e-7 * torch.randn(20, 4, generator=torch.Generator().manual_seed(0)) ** 5
    for d, sides in itertools.product(CASES, SIDES):
        result = estimate(d, rounding, rounding, sides)
        assert abs(result.value) < 1e-5 and not result.warning, (d, sides)


def test_estimates_from_few_samples_have_warnings() -> None:
    on_policy, on_reference = (ratios.flatten(0, 1) for ratios in log_ratios(0.6))
    for d, sides in itertools.product(CASES, SIDES):
        assert not estimate(d, on_policy, on_reference, sides).warning, (d, sides)
    generator = torch.Generator().manual_seed(0)
    normal = 3 * torch.randn(50, 8, generator=generator, dtype=torch.float64)
    on_policy, on_reference = normal + 4.5, normal - 4.5  # Gaussians three deviations apart
    for d in (REVERSE, FORWARD, get_divergence("js"), get_divergence("alpha")):
        assert not estimators.divergence(d, on_policy, on_reference).warning
    assert (
        not estimators.reverse_kl(on_policy).warning
        and not estimators.forward_kl(on_reference).warning
    )
    assert "heavy tail" in estimators.divergence(REVERSE, None, on_reference).warning
    assert "heavy tail" in estimators.divergence(FORWARD, on_policy).warning
    assert (
        "heavy tail"
        in estimators.divergence(get_divergence("pearson_chi2"), on_policy, on_reference).warning
    )
    # All samples contribute the same to u log u - u + 1, but they miss the mass of the policy.
    missed = estimators.divergence(REVERSE, None, 0.1 * normal - 20)
    assert missed.value == pytest.approx(1, abs=1e-3) and "not 1" in missed.warning


def test_weights_average_one_for_samples_of_the_right_model() -> None:
    on_policy, on_reference = (ratios.flatten(0, 1) for ratios in log_ratios(0.6))
    for log_weights in (-on_policy, on_reference):
        result = estimators.mean_weight(log_weights)
        assert abs(result.value - 1) < 4 * result.error and not result.warning
    policy, reference = world(0.6)
    top = policy.topk(6).indices  # a policy that was sampled with a filter
    samples = policy[top].exp().multinomial(1600, True, generator=torch.Generator().manual_seed(0))
    filtered = (reference - policy)[top[samples]].view(400, 4)
    assert "not 1" in estimators.mean_weight(filtered).warning
    assert estimators.mean_weight(on_reference + 700).value == pytest.approx(math.exp(700), rel=0.1)


def test_error_is_that_of_the_mean_over_prompts() -> None:
    values = torch.tensor([[1.0, 3.0], [5.0, 7.0], [0.0, 2.0]])
    result = estimators.mean(values)
    assert result[:2] == pytest.approx((3.0, scipy.stats.sem([2.0, 6.0, 1.0])))
    shuffled = torch.tensor([2, 0, 5, 3, 1, 4])
    same = estimators.mean(values.flatten()[shuffled], ["aabbcc"[i] for i in shuffled])
    assert same[:2] == pytest.approx(result[:2])
    assert math.isnan(estimators.mean(values[:1]).error)
    assert math.isnan(estimators.mean(torch.empty(0)).value)


def test_error_shrinks_with_prompts_and_not_with_copies() -> None:
    values = torch.randn(100, 1, generator=torch.Generator().manual_seed(0))
    result = estimators.mean(values)
    assert estimators.mean(values.repeat(1, 10)).error == pytest.approx(result.error)
    copied = estimators.mean(values.repeat(10, 1), [*range(100)] * 10)
    assert copied.error == pytest.approx(result.error)
    assert estimators.mean(values.repeat(10, 1)).error == pytest.approx(
        result.error / 10**0.5, rel=0.01
    )


# --- token by token ---

END, WORDS, LENGTH = 0, 3, 3


@cache
def texts() -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Every text of a policy, its probability, its log-ratio, both models' logits, and the mask.

    The next word depends on all before it; a text ends with the end word or is cut after three.
    """
    generator = torch.Generator().manual_seed(3)
    prefixes = [p for n in range(LENGTH) for p in itertools.product(range(WORDS), repeat=n)]
    logits = {
        p: 1.5 * torch.randn(2, WORDS, generator=generator, dtype=torch.float64) for p in prefixes
    }
    rows, lengths = [], []
    for text in itertools.product(range(WORDS), repeat=LENGTH):
        length = text.index(END) + 1 if END in text else LENGTH
        if all(word == END for word in text[length:]):  # each text once, whatever follows its end
            rows.append(text)
            lengths.append(length)
    both = torch.stack([torch.stack([logits[t[:i]] for i in range(LENGTH)], 1) for t in rows], 1)
    mask = torch.arange(LENGTH) < torch.tensor(lengths)[:, None]
    words = torch.tensor(rows)[None, :, :, None].expand(2, -1, -1, -1)
    each = both.log_softmax(-1).gather(-1, words)[..., 0]
    policy, reference = torch.where(mask, each, 0).sum(-1)
    return policy.exp(), policy - reference, both[0], both[1], mask


def test_rao_blackwell_kl_has_the_mean_of_the_log_ratio_and_less_variance() -> None:
    probability, log_ratio, policy, reference, mask = texts()
    assert probability.sum().item() == pytest.approx(1)
    kl = estimators.rao_blackwell_kl(policy, reference, mask)
    exact = (probability * log_ratio).sum()
    assert (probability * kl).sum().item() == pytest.approx(exact.item(), rel=1e-12)

    def variance(values: Tensor) -> Tensor:
        return (probability * (values - exact).square()).sum()

    assert variance(kl) < 0.8 * variance(log_ratio) and (kl > 0).all()
    samples = probability.multinomial(2000, True, generator=torch.Generator().manual_seed(0))
    sampled = estimators.mean(kl[samples].view(500, 4))
    assert abs(sampled.value - exact) < 4 * sampled.error
    assert sampled.error < estimators.reverse_kl(log_ratio[samples].view(500, 4)).error


def test_token_metrics_against_scipy_and_beyond_the_mask() -> None:
    _, _, policy, reference, mask = texts()
    p, q = policy.softmax(-1).numpy(), reference.softmax(-1).numpy()
    inside = mask.numpy()
    kl = estimators.rao_blackwell_kl(policy.log_softmax(-1) + 5, reference - 7, mask)
    assert kl.tolist() == pytest.approx((scipy.stats.entropy(p, q, axis=-1) * inside).sum(-1))
    entropy = estimators.predictive_entropy(policy, mask)
    means = (scipy.stats.entropy(p, axis=-1) * inside).sum(-1) / inside.sum(-1)
    assert entropy.tolist() == pytest.approx(means)
    padded = policy.masked_fill(~mask[..., None], math.nan)
    assert torch.equal(estimators.rao_blackwell_kl(padded, padded, mask), torch.zeros(len(mask)))
    assert torch.equal(estimators.predictive_entropy(padded, mask), entropy)
    whole = estimators.rao_blackwell_kl(policy, reference)
    assert torch.equal(whole, estimators.rao_blackwell_kl(policy, reference, torch.ones_like(mask)))


def test_words_of_probability_0() -> None:
    policy = torch.tensor([[0.0, 0.0, -math.inf]])
    reference = torch.tensor([[0.0, 0.0, 0.0]])
    kl = estimators.rao_blackwell_kl(policy, reference)
    assert kl.item() == pytest.approx(math.log(1.5))
    assert estimators.rao_blackwell_kl(policy, policy).item() == 0
    assert estimators.rao_blackwell_kl(reference, policy).item() == math.inf
    assert estimators.predictive_entropy(policy).item() == pytest.approx(math.log(2))


def test_wrong_inputs_say_what_is_wrong() -> None:
    ok = torch.zeros(3, 2)
    with pytest.raises(ValueError, match="samples of the policy, the reference or both"):
        estimators.divergence(REVERSE)
    with pytest.raises(ValueError, match=r"policy log-ratios must have shape .* got \(3,\)"):
        estimators.divergence(REVERSE, torch.zeros(3))
    with pytest.raises(ValueError, match=r"reference log-ratios must have shape .* got \(0, 2\)"):
        estimators.divergence(REVERSE, ok, torch.zeros(0, 2))
    with pytest.raises(ValueError, match="same prompts, got 3 and 4"):
        estimators.divergence(REVERSE, ok, torch.zeros(4, 2))
    for value in (math.nan, math.inf):
        with pytest.raises(ValueError, match=f"reference log-ratios must be finite, got {value}"):
            estimators.forward_kl(torch.full((3, 2), value))
    with pytest.raises(ValueError, match="2 groups for 3 values"):
        estimators.mean(ok, ["a", "b"])
    with pytest.raises(ValueError, match=r"one shape, got \(3, 2\) and \(3, 4\)"):
        estimators.rao_blackwell_kl(ok, torch.zeros(3, 4))
