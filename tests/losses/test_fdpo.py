"""The f-DPO loss, the preference losses, and the names that choose them."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from scipy.optimize import brentq
from torch import Tensor
from torch.nn.functional import logsigmoid

from fdpo import (
    DIVERGENCES,
    LOSSES,
    PREFERENCES,
    Divergence,
    divergence_from_generator,
    fdpo_loss,
    get_divergence,
    resolve_loss,
    tailed,
)
from fdpo.losses.names import loss_parameters

DIVERGENCE_LIST: list[Divergence] = [
    *(kind() for kind in DIVERGENCES.values()),
    get_divergence("alpha", alpha=2),
    get_divergence("skew_js", t=0.1),
    0.7 * get_divergence("js") + 0.3 * get_divergence("forward_kl"),
    divergence_from_generator(lambda u: (1 - u) ** 2 / u, name="own"),
]

pytestmark = pytest.mark.filterwarnings("ignore:.*is not exact")


def logit(p: float) -> float:
    return math.log(p / (1 - p))


@pytest.mark.parametrize("divergence", DIVERGENCE_LIST, ids=str)
def test_loss_is_the_formula(divergence: Divergence) -> None:
    chosen, rejected = torch.randn(2, 50, dtype=torch.float64, generator=seeded(0))
    out = fdpo_loss(chosen, rejected, divergence, beta=0.3)
    link = divergence.link
    torch.testing.assert_close(out.chosen_rewards, 0.3 * link(chosen))
    torch.testing.assert_close(out.rejected_rewards, 0.3 * link(rejected))
    torch.testing.assert_close(out.margins, out.chosen_rewards - out.rejected_rewards)
    torch.testing.assert_close(out.losses, torch.log1p(torch.exp(-out.margins)))
    torch.testing.assert_close(out.chosen_slopes, divergence.slope(chosen))
    torch.testing.assert_close(out.rejected_slopes, divergence.slope(rejected))
    assert not out.in_tail.any() and out.tail_fraction == 0


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_a_worked_example() -> None:
    # forward KL, β = 1/2: g(log 2) = 1/2, g(-log 2) = -1, m = 3/4
    out = fdpo_loss(
        torch.tensor([math.log(2)]), -torch.tensor([math.log(2)]), get_divergence("forward_kl"), 0.5
    )
    assert out.margins.item() == pytest.approx(0.75)
    assert out.losses.item() == pytest.approx(math.log(1 + math.exp(-0.75)))
    assert (out.chosen_slopes.item(), out.rejected_slopes.item()) == pytest.approx((0.5, 2))


@pytest.mark.parametrize("divergence", DIVERGENCE_LIST, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_loss_and_gradient_are_finite_signed_and_alive_everywhere(
    divergence: Divergence, dtype: torch.dtype
) -> None:
    size = torch.tensor([0, 1e-3, 0.1, 1, 5, 9, 11, 18, 30, 80, 100, 300, 1e3, 3e3, 1e4])
    every = torch.cat([-size, size[1:]])
    grid = torch.cartesian_prod(every, every).to(dtype)
    leaves = [column.clone().requires_grad_() for column in grid.T]
    out = fdpo_loss(leaves[0], leaves[1], divergence)
    out.losses.sum().backward()
    assert out.losses.dtype == torch.float32
    exact = [leaf.detach().double().requires_grad_() for leaf in leaves]
    fdpo_loss(exact[0], exact[1], divergence).losses.sum().backward()
    assert out.losses.isfinite().all() and (out.losses >= 0).all()
    for leaf, double, sign in zip(leaves, exact, (-1, 1), strict=True):
        assert leaf.grad is not None and double.grad is not None
        assert leaf.grad.dtype == dtype and leaf.grad.isfinite().all()
        assert (sign * leaf.grad >= 0).all()
        alive = double.grad.abs() > 1e-36  # what float32 cannot hold may be 0
        assert alive.sum() > 100
        assert (leaf.grad != 0)[alive].all()


@pytest.mark.parametrize("divergence", DIVERGENCE_LIST, ids=str)
def test_clamped_pairs_still_learn(divergence: Divergence) -> None:
    # Both far below the reference: a clamp would make the loss log 2 and the gradient 0.
    low = torch.tensor([-500.0], requires_grad=True)
    out = fdpo_loss(low, torch.tensor([-499.0]), divergence, beta=1e-3)
    out.losses.sum().backward()
    assert low.grad is not None
    if divergence.exact:
        assert out.losses.item() > math.log(2) and low.grad.item() < 0


def test_tail_of_pairs() -> None:
    chosen, rejected = torch.tensor([-9.0, -11, 0, 40]), torch.tensor([0.0, 0, -12, 40])
    out = fdpo_loss(chosen, rejected, get_divergence("forward_kl"))
    assert out.in_tail.tolist() == [False, True, True, False]
    assert out.tail_fraction.item() == 0.5
    # g(-10) = 1 - e^10, and one nat more at slope e^10
    assert out.chosen_rewards[1].item() == pytest.approx(0.1 * (1 - 2 * math.exp(10)))
    assert out.chosen_slopes[1].item() == pytest.approx(math.exp(10))
    untailed = fdpo_loss(chosen, rejected, get_divergence("forward_kl"), tail=None)
    assert untailed.tail_fraction == 0
    assert untailed.chosen_rewards[1].item() == pytest.approx(0.1 * -math.expm1(11))


@pytest.mark.parametrize("divergence", DIVERGENCE_LIST, ids=str)
def test_matched_curvature_starts_as_dpo(divergence: Divergence) -> None:
    chosen = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    for match, strength in ((True, 1.0), (False, divergence.curvature)):
        out = fdpo_loss(chosen, torch.zeros(3), divergence, beta=0.2, match_curvature=match)
        (gradient,) = torch.autograd.grad(out.losses.sum(), chosen)
        # ∓β w(0)/2
        torch.testing.assert_close(gradient, torch.full_like(chosen, -0.1 * strength))
        torch.testing.assert_close(out.chosen_slopes, torch.full_like(chosen, strength))


@pytest.mark.parametrize("divergence", DIVERGENCE_LIST, ids=str)
def test_matched_curvature_is_another_beta(divergence: Divergence) -> None:
    chosen, rejected = torch.randn(2, 20, dtype=torch.float64, generator=seeded(1)) * 8
    matched = fdpo_loss(chosen, rejected, divergence, beta=0.2, match_curvature=True)
    other = fdpo_loss(chosen, rejected, divergence, beta=0.2 / divergence.curvature)
    torch.testing.assert_close(matched.losses, other.losses)
    assert torch.equal(matched.in_tail, other.in_tail)


# The margin at which each preference loss is least, where the chosen one is preferred with
# probability p and a share of labels is flipped only where the loss accounts for it.
SMOOTHING = 0.1
MARGINS: dict[str, Callable[[float], float]] = {
    "logistic": logit,
    "robust": logit,
    "hinge": lambda p: math.copysign(1, 2 * p - 1),
    "squared": lambda p: (2 * p - 1) / 2,
    "exponential": lambda p: logit(p) / 2,
    "truncated_quadratic": lambda p: 2 * p - 1,
    "savage": logit,
}


def population_margin(loss: Callable[[Tensor], Tensor], p: float) -> float:
    def slope(value: float) -> float:
        margin = torch.tensor(value, dtype=torch.float64, requires_grad=True)
        (p * loss(margin) + (1 - p) * loss(-margin)).backward()
        return margin.grad.item()  # type: ignore[union-attr]

    return brentq(slope, -4.123, 5.321, xtol=1e-13)


@pytest.mark.parametrize("p", [0.25, 0.6, 0.75, 0.9])
@pytest.mark.parametrize("name", MARGINS)
def test_population_margin(name: str, p: float) -> None:
    assert population_margin(PREFERENCES[name], p) == pytest.approx(MARGINS[name](p), abs=1e-9)


@pytest.mark.parametrize("p", [0.6, 0.75, 0.9])
def test_population_margin_with_flipped_labels(p: float) -> None:
    flipped = (1 - SMOOTHING) * p + SMOOTHING * (1 - p)

    def conservative(margin: Tensor) -> Tensor:
        return PREFERENCES["logistic"](margin, SMOOTHING)

    def robust(margin: Tensor) -> Tensor:
        return PREFERENCES["robust"](margin, SMOOTHING)

    assert population_margin(conservative, p) == pytest.approx(logit(flipped), abs=1e-9)
    assert population_margin(robust, flipped) == pytest.approx(logit(p), abs=1e-9)


@pytest.mark.parametrize("name", PREFERENCES)
def test_preference_losses_fall_at_0_and_are_finite_in_float32(name: str) -> None:
    margin = torch.tensor([0.0, -1e8, -200, -10, 10, 200, 1e8], requires_grad=True)
    losses = PREFERENCES[name](margin, 0.1)
    losses.sum().backward()
    assert losses.isfinite().all()
    assert margin.grad is not None and margin.grad.isfinite().all() and margin.grad[0] < 0


@pytest.mark.parametrize("name", sorted(PREFERENCES.keys() - {"robust"}))
def test_label_smoothing_mixes_the_loss_with_its_mirror(name: str) -> None:
    margin = torch.linspace(-3, 3, 25, dtype=torch.float64)
    loss = PREFERENCES[name]
    expected = 0.8 * loss(margin) + 0.2 * loss(-margin)
    torch.testing.assert_close(loss(margin, 0.2), expected)
    out = fdpo_loss(
        margin, 0 * margin, get_divergence("reverse_kl"), 1.0, name, label_smoothing=0.2
    )
    torch.testing.assert_close(out.losses, expected)


def test_robust_undoes_flips_in_expectation() -> None:
    # E over flips of the robust loss is the clean logistic loss.
    margin, robust = torch.linspace(-3, 3, 25, dtype=torch.float64), PREFERENCES["robust"]
    expected = 0.7 * robust(margin, 0.3) + 0.3 * robust(-margin, 0.3)
    torch.testing.assert_close(expected, PREFERENCES["logistic"](margin))


def test_exponential_is_straight_below_minus_10() -> None:
    margin = torch.tensor([-10.0, -11, -1e6], dtype=torch.float64, requires_grad=True)
    losses = PREFERENCES["exponential"](margin)
    (gradient,) = torch.autograd.grad(losses.sum(), margin)
    torch.testing.assert_close(gradient, torch.full_like(margin, -math.exp(10)))
    torch.testing.assert_close(losses[1], losses[0] + math.exp(10))


def trl_scores(name: str, log_ratio: Tensor, coefficient: float) -> Tensor:
    """The scores of the divergences as TRL's documentation has them."""
    if name == "forward_kl":
        return 1 - torch.exp(-log_ratio)
    if name == "js":
        return math.log(2) + logsigmoid(log_ratio)
    if name == "alpha":
        return (torch.exp((coefficient - 1) * log_ratio) - 1) / (coefficient - 1)
    return log_ratio


@pytest.mark.parametrize("preference", ["logistic", "hinge", "squared", "robust"])
@pytest.mark.parametrize(
    ("name", "coefficient"),
    [("reverse_kl", 0.5), ("forward_kl", 0.5), ("js", 0.5), ("alpha", 0.5), ("alpha", -0.3)],
)
def test_parity_with_the_formulas_of_trl(name: str, coefficient: float, preference: str) -> None:
    beta = 0.1
    # in float32 the square of (TRL's) difference of two exponentials has lost too many digits
    dtype = torch.float64 if preference == "squared" else torch.float32
    chosen, rejected = torch.empty(2, 400, dtype=dtype).uniform_(-20, 20, generator=seeded(2))
    chosen.requires_grad_(), rejected.requires_grad_()
    parameters = {"alpha": 1 - coefficient} if name == "alpha" else {}
    out = fdpo_loss(
        chosen,
        rejected,
        get_divergence(name, **parameters),
        beta,
        preference,
        label_smoothing=0.2 if preference == "robust" else 0.0,
        tail=None,
    )
    delta = trl_scores(name, chosen, coefficient) - trl_scores(name, rejected, coefficient)
    theirs = {
        "logistic": -logsigmoid(beta * delta),
        "hinge": torch.relu(1 - beta * delta),
        "squared": beta**2 * (delta - 1 / (2 * beta)) ** 2,
        "robust": (-0.8 * logsigmoid(beta * delta) + 0.2 * logsigmoid(-beta * delta)) / 0.6,
    }[preference]
    torch.testing.assert_close(out.losses, theirs, rtol=1e-5, atol=1e-6)
    ours = torch.autograd.grad(out.losses.mean(), (chosen, rejected))
    for mine, other in zip(
        ours, torch.autograd.grad(theirs.mean(), (chosen, rejected)), strict=True
    ):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-6)


def test_rewards_are_detached() -> None:
    chosen = torch.randn(4, requires_grad=True)
    out = fdpo_loss(chosen, torch.randn(4), get_divergence("js"))
    assert out.losses.requires_grad
    rest = (out.chosen_rewards, out.rejected_rewards, out.margins, out.chosen_slopes)
    assert not any(value.requires_grad for value in rest)


def test_close_log_ratios_keep_their_margin() -> None:
    # g(20) in float32 is log 2 to the last digit, and so is g(20.5).
    out = fdpo_loss(torch.tensor([20.5]), torch.tensor([20.0]), get_divergence("js"), beta=1.0)
    exact = math.log1p(math.exp(-20)) - math.log1p(math.exp(-20.5))
    assert out.margins.item() == pytest.approx(exact, rel=1e-6)


def test_not_exact_divergences_warn() -> None:
    zeros = torch.zeros(2)
    with pytest.warns(UserWarning, match="pearson_chi2 is not exact"):
        fdpo_loss(zeros, zeros, get_divergence("pearson_chi2"))


@pytest.mark.parametrize(
    ("options", "failure"),
    [
        ({"beta": 0.0}, "beta must be finite and above 0, got 0"),
        ({"beta": -1.0}, "beta must be finite and above 0"),
        ({"beta": math.nan}, "beta must be finite and above 0"),
        ({"beta": math.inf}, "beta must be finite and above 0"),
        ({"preference": "sigmoid"}, "no preference loss 'sigmoid'; there are logistic, robust"),
        ({"label_smoothing": 0.5}, r"label_smoothing must lie in \[0, 0.5\), got 0.5"),
        ({"label_smoothing": -0.1}, "label_smoothing must lie in"),
        ({"tail": 0.0}, "tail must be above 0"),
        ({"loser_gradient": 1.5}, r"loser_gradient must lie in \[0, 1\], got 1.5"),
    ],
)
def test_wrong_options(options: dict, failure: str) -> None:
    with pytest.raises(ValueError, match=failure):
        fdpo_loss(torch.zeros(2), torch.zeros(2), get_divergence("js"), **options)


def test_wrong_shapes() -> None:
    with pytest.raises(ValueError, match=r"one shape, got \(2,\) and \(3,\)"):
        fdpo_loss(torch.zeros(2), torch.zeros(3), get_divergence("js"))


def test_names_of_losses() -> None:
    js, reverse_kl = get_divergence("js"), get_divergence("reverse_kl")
    assert resolve_loss("sigmoid") == (reverse_kl, "logistic")
    assert resolve_loss("hinge") == (reverse_kl, "hinge")
    assert resolve_loss("ipo") == (reverse_kl, "squared")
    assert resolve_loss("jsd") == (js, "logistic")
    assert resolve_loss("fkl") == (get_divergence("forward_kl"), "logistic")
    assert resolve_loss("alpha", alpha=0.3) == (get_divergence("alpha", alpha=0.3), "logistic")
    assert resolve_loss("skew_js", t=0.3) == (get_divergence("skew_js", t=0.3), "logistic")
    assert resolve_loss("sigmoid", alpha=None) == (reverse_kl, "logistic")


@pytest.mark.parametrize("name", LOSSES)
def test_every_name_gives_a_divergence_and_a_preference_loss(name: str) -> None:
    divergence, preference = resolve_loss(name)
    assert isinstance(divergence, Divergence) and preference in PREFERENCES


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_takes_its_parameters_and_no_others(name: str) -> None:
    known = loss_parameters(name)
    assert ("alpha" in known) == (name == "alpha") and ("t" in known) == (name == "skew_js")
    for parameter in ("alpha", "t"):
        if parameter in known:
            resolve_loss(name, **{parameter: 0.3})
        else:
            with pytest.raises(ValueError, match=f"takes no parameter '{parameter}'"):
                resolve_loss(name, **{parameter: 0.3})


def test_mixtures_by_name() -> None:
    js, kl = get_divergence("js"), get_divergence("reverse_kl")
    skew, alpha = get_divergence("skew_js", t=0.2), get_divergence("alpha", alpha=-0.5)
    for text, expected in {
        "0.7*js+0.3*reverse_kl": 0.7 * js + 0.3 * kl,
        "jsd + sigmoid": js + kl,
        "2 * (js + 1e-1*skew_js(t=0.2))": 2 * (js + 0.1 * skew),
        "skew_js(0.2) + alpha(-0.5)": skew + alpha,
        "alpha(alpha=-0.5)": alpha,
    }.items():
        assert resolve_loss(text) == (expected, "logistic")


@pytest.mark.parametrize("share", [0.0, 0.1, 1.0])
def test_a_share_of_the_losers_gradient(share: float) -> None:
    """The loss keeps its value, the chosen side its gradient, the rejected side a share of it."""
    chosen, rejected = (torch.linspace(a, b, 7, dtype=torch.float64) for a, b in ((-2, 3), (4, -5)))
    divergence = get_divergence("js")

    def run(share: float) -> tuple[Tensor, Tensor, Tensor]:
        leaves = [side.clone().requires_grad_() for side in (chosen, rejected)]
        losses = fdpo_loss(leaves[0], leaves[1], divergence, beta=0.5, loser_gradient=share).losses
        up, down = torch.autograd.grad(losses.sum(), leaves)
        return losses.detach(), up, down

    (whole, up, down), (part, part_up, part_down) = run(1.0), run(share)
    assert torch.equal(whole, part) and torch.equal(up, part_up)
    torch.testing.assert_close(part_down, share * down)


@pytest.mark.parametrize(
    ("name", "values", "failure"),
    [
        ("dpo", {}, "no loss 'dpo'; there are sigmoid, hinge, ipo, jsd, fkl, .*a mixture"),
        ("", {}, "cannot read loss ''"),
        ("tv", {}, "its link is a step"),
        ("sigmoid_norm", {}, "divides log-ratios by length"),
        ("jsd", {"alpha": 0.5}, "js takes no parameter 'alpha'"),
        ("alpha", {"alpha": math.inf}, "alpha must be a finite number"),
        ("js+alpha", {"alpha": 0.5}, "takes no parameters beside it, got alpha"),
        ("0.7*js+", {}, "cannot read loss .*give one of sigmoid"),
        ("0.7*nonsense+js", {}, "no loss 'nonsense'"),
        ("0.7*hinge+js", {}, "hinge is no divergence, but a preference loss"),
        ("js-alpha", {}, "js - alpha is no divergence"),
        ("js(1)", {}, r"js\(1\) is no divergence"),
        ("js*js", {}, "js is no number"),
        ("-1*js", {}, "the weight of js must be finite and above 0, got -1"),
        ("alpha(x)", {}, "x is no number"),
        ("alpha(t=0.5)", {}, "alpha takes no parameter 't'"),
        ("no.such:thing", {}, "loss no.such:thing: cannot import 'no.such'"),
        ("math:nothing", {}, "loss math:nothing: math has no 'nothing'"),
        ("math:pi", {}, "neither a Divergence nor a function f"),
        ("math:exp", {}, "f fails on a float64 tensor"),
    ],
)
def test_wrong_names(name: str, values: dict, failure: str) -> None:
    with pytest.raises(ValueError, match=failure):
        resolve_loss(name, **values)


def test_own_losses_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_divergences.py").write_text(
        "import fdpo\n"
        "half = 0.5 * fdpo.get_divergence('js')\n"
        "def neyman(u):\n"
        "    return (1 - u) ** 2 / u\n"
        "def concave(u):\n"
        "    return u.log()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert resolve_loss("my_divergences:half")[0] == 0.5 * get_divergence("js")
    own, preference = resolve_loss("my_divergences:neyman")
    log_ratio = torch.linspace(-2, 2, 9, dtype=torch.float64)
    torch.testing.assert_close(own.link(log_ratio), get_divergence("neyman_chi2").link(log_ratio))
    assert (str(own), own.exact, preference) == ("neyman", True, "logistic")
    with pytest.raises(ValueError, match="concave: f is not convex"):
        resolve_loss("my_divergences:concave")


def test_own_loss_is_found_in_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "divergences_here.py").write_text("def f(u):\n    return -u.log()\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [path for path in __import__("sys").path if path])
    assert resolve_loss("divergences_here:f")[0].exact


def test_tailed_link_keeps_the_digits_of_differences() -> None:
    link = tailed(get_divergence("forward_kl"))
    a = torch.tensor([-8.0, -40.0], dtype=torch.float64)
    exact = torch.tensor([math.exp(8) * 1e-12, math.exp(10) * 1e-12], dtype=torch.float64)
    torch.testing.assert_close(link.difference(a + 1e-12, a), exact, rtol=1e-2, atol=0)
