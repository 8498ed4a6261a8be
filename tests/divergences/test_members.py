"""Links, slopes and inverses of every divergence, against mpmath and against each other."""

import math
from collections.abc import Callable

import pytest
import torch
from mpmath import mp, mpf
from torch import Tensor

from fdpo import (
    DIVERGENCES,
    Divergence,
    alpha_from_trl,
    alpha_to_trl,
    divergence_from_generator,
    get_divergence,
    resolve_loss,
    tailed,
)
from fdpo.divergences.base import Mixture

mp.dps = 50

# A new entry of DIVERGENCES is tested with its default parameters, without a change here.
MEMBERS = [
    *(kind() for kind in DIVERGENCES.values()),
    *(get_divergence("alpha", alpha=a) for a in (-0.5, -1e-12, 0, 1e-30, 1e-3, 0.3, 1, 2)),
    *(get_divergence("skew_js", t=t) for t in (1e-3, 0.2, 0.9, 0.999)),
]
MIXTURES = [
    0.7 * get_divergence("js") + 0.3 * get_divergence("reverse_kl"),
    get_divergence("forward_kl") + 0.1 * get_divergence("chi2_kl"),
    0.5 * (get_divergence("alpha", alpha=0.3) + get_divergence("skew_js", t=0.2)),
    2 * get_divergence("squared_hellinger"),
]
GENERATED = [
    divergence_from_generator(lambda u: u * u.log(), name="custom_reverse_kl"),
    divergence_from_generator(lambda u: (1 - u) ** 2 / (u + 1), name="vincze_le_cam"),
    divergence_from_generator(lambda u: u * u.log() + (u - 2).clamp(min=0), name="custom_kinked"),
]
CLOSED = MEMBERS + MIXTURES
ALL = CLOSED + GENERATED

# The links as published; parameters by name, ℓ as an mpf.
ORACLES: dict[str, Callable[..., mpf]] = {
    "reverse_kl": lambda x: x,
    "forward_kl": lambda x: 1 - mp.exp(-x),
    "alpha": lambda x, alpha: -mp.expm1(-mpf(alpha) * x) / mpf(alpha) if alpha else x,
    "js": lambda x: mp.log(2) - mp.log1p(mp.exp(-x)),
    "skew_js": lambda x, t: -mpf(t) * mp.log(mpf(t) + (1 - mpf(t)) * mp.exp(-x)),
    "jeffreys": lambda x: x + 1 - mp.exp(-x),
    "squared_hellinger": lambda x: 1 - mp.exp(-x / 2),
    "neyman_chi2": lambda x: 1 - mp.exp(-2 * x),
    "chi2_kl": lambda x: mp.exp(x) - 1 + x,
    "pearson_chi2": lambda x: 2 * (mp.exp(x) - 1),
}


def terms(divergence: Divergence) -> tuple[tuple[float, Divergence], ...]:
    return divergence.terms if isinstance(divergence, Mixture) else ((1.0, divergence),)


def oracle(divergence: Divergence, log_ratio: float) -> mpf:
    """Computes the link in 50 digits (more where 1 - e^-x cancels)."""
    with mp.workdps(90):
        return sum(
            mpf(weight) * ORACLES[term.name](mpf(log_ratio), **parameter_values(term))
            for weight, term in terms(divergence)
        )


def parameter_values(divergence: Divergence) -> dict[str, float]:
    return {
        name: getattr(divergence, name) for name in ("alpha", "t") if name in divergence.__dict__
    }


def has_oracle(divergence: Divergence) -> bool:
    return all(term.name in ORACLES for _, term in terms(divergence))


def amplification(divergence: Divergence, log_ratio: Tensor, free: float) -> Tensor:
    """Returns the factor by which exp amplifies the rounding of αℓ."""
    alphas = [abs(term.alpha) for _, term in terms(divergence) if term.name == "alpha"]  # type: ignore[attr-defined]
    return (max(alphas, default=0.0) * log_ratio.abs() / free).clamp(min=1)


def grid(dtype: torch.dtype, largest: float = 1e4) -> Tensor:
    size = torch.logspace(-20, math.log10(largest), 301, dtype=torch.float64)
    near = torch.tensor(
        [0.0, 0.5, 0.69, 0.7, 17.2, 17.4, 19.99, 20.0, 20.01, 88.0, 89.0, 700.0, 720.0]
    )
    size = torch.cat([size, near.clamp(max=largest).double()])
    return torch.cat([-size, size]).sort().values.to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("divergence", [d for d in CLOSED if has_oracle(d)], ids=str)
def test_link_against_mpmath(divergence: Divergence, dtype: torch.dtype) -> None:
    log_ratio = grid(dtype)
    link = divergence.link(log_ratio)
    assert link.dtype == dtype and not link.isnan().any()
    rtol, free = (5e-7, 3) if dtype == torch.float32 else (5e-15, 20)
    largest = torch.finfo(dtype).max
    safe = largest * min(1.0, *(weight for weight, _ in terms(divergence))) / 2
    margins = amplification(divergence, log_ratio.double(), free) * rtol
    for x, got, margin in zip(log_ratio.tolist(), link.tolist(), margins.tolist(), strict=True):
        exact = oracle(divergence, x)
        if abs(exact) > largest * (1 + margin):
            assert got == math.copysign(math.inf, x), x
        elif abs(exact) < safe:  # a term may overflow before its weighted sum does
            assert abs(mpf(got) - exact) <= margin * abs(exact), (x, got, exact)


@pytest.mark.parametrize("divergence", [d for d in CLOSED if has_oracle(d)], ids=str)
def test_difference_keeps_the_digits_of_close_log_ratios(divergence: Divergence) -> None:
    generator = torch.Generator().manual_seed(0)
    a = torch.empty(200, dtype=torch.float64).uniform_(-30, 30, generator=generator)
    b = a + torch.logspace(-12, 1.5, 200, dtype=torch.float64) * torch.tensor([1, -1]).repeat(100)
    got = divergence.difference(a, b)
    for x, y, difference in zip(a.tolist(), b.tolist(), got.tolist(), strict=True):
        exact = oracle(divergence, x) - oracle(divergence, y)
        # a and b are exact, a - b is rounded: so is all that depends on it
        assert abs(mpf(difference) - exact) <= 1e-13 * abs(exact), (x, y)


@pytest.mark.parametrize("divergence", ALL, ids=str)
def test_difference_is_that_of_links_with_their_slopes(divergence: Divergence) -> None:
    a = torch.linspace(-9, 9, 41, dtype=torch.float64, requires_grad=True)
    b = torch.linspace(7, -8, 41, dtype=torch.float64, requires_grad=True)
    difference = divergence.difference(a, b)
    torch.testing.assert_close(difference, divergence.link(a) - divergence.link(b))
    difference.sum().backward()
    torch.testing.assert_close(a.grad, divergence.slope(a))
    torch.testing.assert_close(b.grad, -divergence.slope(b))


@pytest.mark.parametrize("divergence", ALL, ids=str)
def test_link_is_0_at_0_and_never_falls(divergence: Divergence) -> None:
    for dtype in (torch.float32, torch.float64):
        link = divergence.link(grid(dtype))
        assert divergence.link(torch.zeros(1, dtype=dtype)).item() == 0
        finite = link[link.isfinite()]
        noise = 4 * torch.finfo(dtype).eps * finite[1:].abs()
        assert (torch.diff(finite) >= -noise).all()
        assert (link.sort().values == link)[~link.isfinite()].all()


@pytest.mark.parametrize("divergence", ALL, ids=str)
def test_link_is_the_derivative_of_f(divergence: Divergence) -> None:
    log_ratio = torch.linspace(-5, 5, 101, dtype=torch.float64)
    log_ratio = log_ratio[(log_ratio - math.log(2)).abs() > 1e-3]  # the kink of custom_kinked
    ratio = log_ratio.exp().requires_grad_()
    one = torch.ones(1, dtype=torch.float64, requires_grad=True)
    (derivative,) = torch.autograd.grad(divergence.f(ratio).sum(), ratio)
    (at_one,) = torch.autograd.grad(divergence.f(one).sum(), one)
    torch.testing.assert_close(
        divergence.link(log_ratio), derivative - at_one, rtol=1e-9, atol=1e-10
    )
    assert divergence.f(one).item() == pytest.approx(0, abs=1e-15)


@pytest.mark.parametrize("divergence", CLOSED, ids=str)
def test_f_is_convex_and_its_value_at_0_is_a_limit(divergence: Divergence) -> None:
    f = divergence.f(torch.linspace(0, 5, 501, dtype=torch.float64))
    assert (f[2:] - 2 * f[1:-1] + f[:-2] >= -1e-12).all()
    close = divergence.f(torch.tensor([1e-300], dtype=torch.float64))
    assert f[0] == math.inf or f[0].item() == pytest.approx(close.item(), rel=1e-2)


@pytest.mark.parametrize("divergence", CLOSED, ids=str)
def test_gradient_of_link_is_slope_and_slope_is_its_derivative(divergence: Divergence) -> None:
    log_ratio = torch.linspace(-9, 9, 181, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(divergence.link(log_ratio).sum(), log_ratio)
    assert torch.equal(gradient, divergence.slope(log_ratio))
    step = 1e-5
    numeric = divergence.difference(log_ratio + step, log_ratio - step) / (2 * step)
    torch.testing.assert_close(gradient, numeric, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("divergence", ALL, ids=str)
def test_slope_is_positive_in_float32_where_the_link_is_flat(divergence: Divergence) -> None:
    # autograd of expm1 would give 0 below -17.3
    slope = divergence.slope(torch.tensor([-40.0, -20.0, 0.0, 20.0, 40.0]))
    assert (slope > 0).all() or divergence in GENERATED and (slope >= 0).all()


@pytest.mark.parametrize("divergence", ALL, ids=str)
def test_second_derivatives(divergence: Divergence) -> None:
    log_ratio = torch.tensor([-3.0, -0.5, 0.1, 2.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(divergence.link, log_ratio)
    assert torch.autograd.gradgradcheck(divergence.link, log_ratio)
    assert torch.autograd.gradgradcheck(tailed(divergence, 1.3), log_ratio)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("divergence", CLOSED, ids=str)
def test_inverse_link(divergence: Divergence, dtype: torch.dtype) -> None:
    log_ratio = grid(dtype, largest=600)
    link = divergence.link(log_ratio)
    error = (divergence.inverse_link(link) - log_ratio).abs()
    allowed = (
        8 * torch.finfo(dtype).eps * (log_ratio.abs() + link.abs() / divergence.slope(log_ratio))
    )
    told_apart = allowed < 0.1
    assert told_apart.sum() > 300
    assert (error <= allowed)[told_apart].all(), (log_ratio[told_apart], error[told_apart])


@pytest.mark.parametrize("divergence", ALL, ids=str)
def test_inverse_link_outside_the_range_is_infinite(divergence: Divergence) -> None:
    for side in (-1, 1):
        far, end = divergence.link(torch.tensor([5e8, 1e9], dtype=torch.float64) * side).tolist()
        bounded = far == end and math.isfinite(end)
        beyond = [abs(end), 2 * abs(end), 1e308, math.inf] if bounded else [math.inf]
        inverse = divergence.inverse_link(torch.tensor(beyond, dtype=torch.float64) * side)
        assert (inverse == side * math.inf).all()
        huge = divergence.inverse_link(torch.tensor([1e30, 1e308], dtype=torch.float64) * side)
        assert (huge.sign() == side).all()


@pytest.mark.parametrize("divergence", CLOSED, ids=str)
def test_half_precision_is_computed_in_float32(divergence: Divergence) -> None:
    log_ratio = torch.linspace(-9, 9, 41).bfloat16()
    for half in (log_ratio, log_ratio.half()):
        link = divergence.link(half)
        assert link.dtype == divergence.slope(half).dtype == torch.float32
        assert torch.equal(link, divergence.link(half.float()))


@pytest.mark.parametrize("divergence", ALL, ids=str)
def test_exact_and_curvature(divergence: Divergence) -> None:
    deep = divergence.slope(torch.tensor([-20.0, -25.0], dtype=torch.float64))
    decays = (deep[1] / deep[0]).item() < 0.99
    slow = any(term.name == "alpha" and -0.01 < term.alpha < 0 for _, term in terms(divergence))  # type: ignore[attr-defined]
    assert divergence.exact is not (decays or slow)
    assert divergence.curvature == divergence.slope(torch.zeros(1, dtype=torch.float64)).item()


PUBLISHED = {
    "reverse_kl": (True, 1), "forward_kl": (True, 1), "alpha": (True, 1), "js": (True, 0.5),
    "jeffreys": (True, 2), "squared_hellinger": (True, 0.5), "neyman_chi2": (True, 2),
    "chi2_kl": (True, 2), "pearson_chi2": (False, 2),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_exactness_and_curvature(name: str) -> None:
    divergence = get_divergence(name)
    assert (divergence.exact, divergence.curvature) == PUBLISHED[name]


def test_exactness_and_curvature_of_parameters_and_mixtures() -> None:
    assert get_divergence("skew_js", t=0.2).curvature == pytest.approx(0.16, rel=1e-15)
    assert not get_divergence("alpha", alpha=-1e-9).exact
    pearson, js = get_divergence("pearson_chi2"), get_divergence("js")
    assert (pearson + js).exact and not (2 * pearson).exact
    assert (pearson + 3 * js).curvature == 3.5


IDENTITIES = [
    (get_divergence("alpha", alpha=1), get_divergence("forward_kl")),
    (get_divergence("alpha", alpha=0.5), 2 * get_divergence("squared_hellinger")),
    (get_divergence("alpha", alpha=2), 0.5 * get_divergence("neyman_chi2")),
    (get_divergence("alpha", alpha=-1), 0.5 * get_divergence("pearson_chi2")),
    (get_divergence("skew_js", t=0.5), 0.5 * get_divergence("js")),
    (get_divergence("jeffreys"), get_divergence("reverse_kl") + get_divergence("forward_kl")),
    (
        get_divergence("chi2_kl"),
        get_divergence("reverse_kl") + 0.5 * get_divergence("pearson_chi2"),
    ),
]


@pytest.mark.parametrize(("one", "other"), IDENTITIES, ids=str)
def test_identities(one: Divergence, other: Divergence) -> None:
    log_ratio = torch.linspace(-30, 30, 601, dtype=torch.float64)
    torch.testing.assert_close(one.link(log_ratio), other.link(log_ratio), rtol=1e-14, atol=0)
    torch.testing.assert_close(one.slope(log_ratio), other.slope(log_ratio), rtol=1e-14, atol=0)
    # equal as divergences: the generators differ by a multiple of u - 1
    ratio = torch.tensor([0.2, 0.7, 3.0], dtype=torch.float64)
    tilt = (one.f(ratio) - other.f(ratio)) / (ratio - 1)
    torch.testing.assert_close(tilt, tilt[:1].expand(3), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("alpha", [1e-3, 1e-9, 1e-19, 1e-21, 1e-300, -1e-6])
def test_alpha_near_0_is_nearly_the_reverse_kl(alpha: float) -> None:
    log_ratio = grid(torch.float64, largest=10)
    error = (get_divergence("alpha", alpha=alpha).link(log_ratio) - log_ratio).abs()
    assert (error <= abs(alpha) * log_ratio**2 + 1e-15 * log_ratio.abs()).all()


TAU = 10.0
KNEES = {
    "reverse_kl": (-math.inf, math.inf),
    "js": (-math.inf, math.inf),
    "forward_kl": (-TAU, math.inf),
    "squared_hellinger": (-2 * TAU, math.inf),
    "neyman_chi2": (-TAU / 2, math.inf),
    "jeffreys": (-math.log(2 * math.exp(TAU) - 1), math.inf),
    "chi2_kl": (-math.inf, math.log(2 * math.exp(TAU) - 1)),
    "pearson_chi2": (-math.inf, TAU),
}


@pytest.mark.parametrize("name", KNEES)
def test_published_knees(name: str) -> None:
    link = tailed(get_divergence(name), TAU)
    assert (link.low, link.high) == pytest.approx(KNEES[name], rel=1e-14)


@pytest.mark.parametrize("alpha", [1e-3, 0.3, 1, 2])
def test_published_knee_of_alpha(alpha: float) -> None:
    link = tailed(get_divergence("alpha", alpha=alpha), TAU)
    assert link.low == pytest.approx(-TAU / alpha, rel=1e-13) and link.high == math.inf


@pytest.mark.parametrize("tail", [0.5, 3.0, 10.0])
@pytest.mark.parametrize("divergence", ALL, ids=str)
def test_tail_starts_where_the_slope_is_steep(divergence: Divergence, tail: float) -> None:
    link, steep = tailed(divergence, tail), divergence.curvature * math.exp(tail)
    for knee, side in ((link.low, -1), (link.high, 1)):
        reach = torch.linspace(0, 1, 2001, dtype=torch.float64) * min(abs(knee), 500)
        assert (divergence.slope(side * reach[:-1]) < steep).all()
        if math.isinf(knee):
            continue
        # At the knee the slope counts once; beyond, it stays.
        at = torch.tensor([knee, knee + side, knee + 1e4 * side], dtype=torch.float64)
        at.requires_grad_()
        value = link(at)
        value.sum().backward()
        torch.testing.assert_close(at.grad, torch.full_like(at, steep), rtol=1e-9, atol=0)
        torch.testing.assert_close(value[0], divergence.link(at[0]), rtol=1e-12, atol=0)
        torch.testing.assert_close(value[1] - value[0], torch.tensor(side * steep).double())
        assert link.in_tail(at.detach()).tolist() == [False, True, True]


def test_tail_is_of_the_whole_mixture() -> None:
    mixture = 0.01 * get_divergence("forward_kl") + get_divergence("reverse_kl")
    # 1 + .01 e^{-ℓ} = 1.01 e^10
    assert tailed(mixture).low == pytest.approx(-math.log(101 * math.exp(10) - 100), rel=1e-14)


def test_no_tail() -> None:
    log_ratio = grid(torch.float32)
    for divergence in CLOSED:
        for none in (None, math.inf):
            assert torch.equal(tailed(divergence, none)(log_ratio), divergence.link(log_ratio))


@pytest.mark.parametrize("tail", [0.0, -1.0, math.nan])
def test_tail_must_be_positive(tail: float) -> None:
    with pytest.raises(ValueError, match="tail must be above 0"):
        tailed(get_divergence("js"), tail)


@pytest.mark.parametrize("divergence", CLOSED, ids=str)
def test_text_names_the_divergence(divergence: Divergence) -> None:
    assert resolve_loss(str(divergence)) == (divergence, "logistic")


@pytest.mark.parametrize(
    ("name", "values", "failure"),
    [
        ("nonsense", {}, "unknown divergence 'nonsense'; choose from reverse_kl, forward_kl"),
        ("hellinger", {}, r"'hellinger' \(did you mean squared_hellinger\?\); choose from"),
        ("total_variation", {}, "its link is a step"),
        ("js", {"alpha": 0.5}, "js takes no parameter 'alpha' .*alpha takes alpha"),
        ("alpha", {"t": 0.5}, "alpha takes no parameter 't'"),
        ("alpha", {"alpha": math.nan}, "alpha must be a finite number, got nan"),
        ("alpha", {"alpha": math.inf}, "alpha must be a finite number"),
        ("alpha", {"alpha": "0.5"}, "alpha must be a finite number, got '0.5'"),
        ("skew_js", {"t": 0}, "t must lie between 0 and 1"),
        ("skew_js", {"t": 1.0}, "t must lie between 0 and 1"),
    ],
)
def test_wrong_names_and_parameters(name: str, values: dict, failure: str) -> None:
    with pytest.raises(ValueError, match=failure):
        get_divergence(name, **values)


@pytest.mark.parametrize("weight", [0, -1.0, math.nan, math.inf])
def test_wrong_weights(weight: float) -> None:
    with pytest.raises(ValueError, match="the weight of js must be finite and above 0"):
        weight * get_divergence("js")


def test_alpha_conventions_of_trl() -> None:
    # TRL >= 0.29 has f'(u) = (u^{c-1} - 1)/(c - 1), TRL <= 0.28 (1 - u^{-a})/a.
    log_ratio = torch.linspace(-5, 5, 11, dtype=torch.float64)
    for coefficient in (-0.5, 0.3, 0.5, 2.0):
        new = torch.expm1((coefficient - 1) * log_ratio) / (coefficient - 1)
        old = -torch.expm1(-coefficient * log_ratio) / coefficient
        for legacy, theirs in ((False, new), (True, old)):
            alpha = alpha_from_trl(coefficient, legacy=legacy)
            torch.testing.assert_close(get_divergence("alpha", alpha=alpha).link(log_ratio), theirs)
            assert alpha_to_trl(alpha, legacy=legacy) == pytest.approx(coefficient, rel=1e-15)
