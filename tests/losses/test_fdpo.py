"""The f-DPO loss: values, gradients, tails, curvature, parity with TRL, and wrong options."""

import inspect
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

import fdpo
from fdpo import (
    DIVERGENCES,
    Divergence,
    LossOutput,
    divergence_from_generator,
    fdpo_loss,
    get_divergence,
    tailed,
)

DIVERGENCE_LIST: list[Divergence] = [
    *(kind() for kind in DIVERGENCES.values()),
    get_divergence("alpha", alpha=2),
    get_divergence("skew_js", t=0.1),
    0.7 * get_divergence("js") + 0.3 * get_divergence("forward_kl"),
    divergence_from_generator(lambda u: (1 - u) ** 2 / u, name="custom"),
]

pytestmark = pytest.mark.filterwarnings("ignore:.*is not exact")


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
        torch.tensor([math.log(2)]),
        -torch.tensor([math.log(2)]),
        get_divergence("forward_kl"),
        beta=0.5,
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
    for match, slope in ((True, 1.0), (False, divergence.curvature)):
        out = fdpo_loss(chosen, torch.zeros(3), divergence, beta=0.2, match_curvature=match)
        (gradient,) = torch.autograd.grad(out.losses.sum(), chosen)
        # ∓β w(0)/2
        torch.testing.assert_close(gradient, torch.full_like(chosen, -0.1 * slope))
        torch.testing.assert_close(out.chosen_slopes, torch.full_like(chosen, slope))


@pytest.mark.parametrize("divergence", DIVERGENCE_LIST, ids=str)
def test_matched_curvature_is_another_beta(divergence: Divergence) -> None:
    chosen, rejected = torch.randn(2, 20, dtype=torch.float64, generator=seeded(1)) * 8
    matched = fdpo_loss(chosen, rejected, divergence, beta=0.2, match_curvature=True)
    other = fdpo_loss(chosen, rejected, divergence, beta=0.2 / divergence.curvature)
    torch.testing.assert_close(matched.losses, other.losses)
    assert torch.equal(matched.in_tail, other.in_tail)


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
        beta=beta,
        preference=preference,
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
    with pytest.warns(UserWarning, match="pearson_chi2 is not exact") as warned:
        fdpo_loss(zeros, zeros, get_divergence("pearson_chi2"))
    assert [warning.filename for warning in warned] == [__file__]


def test_options_are_keyword_only_in_the_signature() -> None:
    parameters = inspect.signature(fdpo_loss).parameters
    assert list(parameters) == [
        "chosen_log_ratios", "rejected_log_ratios", "divergence",
        "beta", "preference", "label_smoothing", "tail", "match_curvature", "loser_gradient",
    ]  # fmt: skip
    kinds = [parameter.kind for parameter in parameters.values()]
    assert kinds == 3 * [inspect.Parameter.POSITIONAL_OR_KEYWORD] + 6 * [
        inspect.Parameter.KEYWORD_ONLY
    ]


@pytest.mark.parametrize("count", [3, 4, 5])
def test_log_probabilities_get_a_helpful_error(count: int) -> None:
    """Other DPO losses take four log-probabilities."""
    loss: Callable[..., LossOutput] = fdpo_loss
    zeros = torch.zeros(2)
    for options in ({}, {"beta": 0.1}):
        with pytest.raises(TypeError, match="policy_chosen - reference_chosen"):
            loss(*count * [zeros], **options)


def test_options_are_given_by_keyword() -> None:
    loss: Callable[..., LossOutput] = fdpo_loss
    zeros = torch.zeros(2)
    with pytest.raises(TypeError, match="options by keyword"):
        loss(zeros, zeros, get_divergence("js"), 0.1)
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'divergence'"):
        loss(zeros, zeros)


@pytest.mark.parametrize("name", ["jsd", "js", "0.7*js + 0.3*reverse_kl", "alpha(0.3)", "sigmoid"])
def test_a_divergence_by_name(name: str) -> None:
    chosen, rejected = torch.randn(2, 5, generator=torch.Generator().manual_seed(0))
    divergence, _ = fdpo.resolve_loss(name)
    by_name = fdpo_loss(chosen, rejected, name, beta=0.3)
    assert torch.equal(by_name.losses, fdpo_loss(chosen, rejected, divergence, beta=0.3).losses)


def test_a_preference_loss_is_no_divergence() -> None:
    with pytest.raises(ValueError, match="ipo is a preference loss: preference='squared'"):
        fdpo_loss(torch.zeros(2), torch.zeros(2), "ipo")
    with pytest.raises(TypeError, match="a divergence or its name is expected, got int"):
        fdpo_loss(torch.zeros(2), torch.zeros(2), 3)  # type: ignore[arg-type]


def test_module() -> None:
    chosen, rejected = torch.randn(2, 5, generator=torch.Generator().manual_seed(0))
    module = fdpo.PreferenceLoss("jsd", beta=0.3, preference="hinge", tail=None)
    expected = fdpo_loss(
        chosen, rejected, get_divergence("js"), beta=0.3, preference="hinge", tail=None
    )
    assert torch.equal(module(chosen, rejected).losses, expected.losses)
    assert not list(module.parameters())
    with pytest.raises(ValueError, match="beta must be a finite number above 0"):
        fdpo.PreferenceLoss("js", beta=0.0)
    with pytest.raises(TypeError, match="unexpected keyword argument 'bta'"):
        fdpo.PreferenceLoss("js", bta=0.1)


def test_old_name_of_the_output() -> None:
    assert fdpo.FDPOLoss is fdpo.LossOutput and "FDPOLoss" in fdpo.__all__


@pytest.mark.parametrize(
    ("options", "failure"),
    [
        ({"beta": 0.0}, "beta must be a finite number above 0, got 0"),
        ({"beta": -1.0}, "beta must be a finite number above 0"),
        ({"beta": math.nan}, "beta must be a finite number above 0"),
        ({"beta": math.inf}, "beta must be a finite number above 0"),
        (
            {"preference": "sigmoid"},
            "preference 'sigmoid': choose from logistic, robust, hinge",
        ),
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


def test_tailed_link_keeps_the_digits_of_differences() -> None:
    link = tailed(get_divergence("forward_kl"))
    a = torch.tensor([-8.0, -40.0], dtype=torch.float64)
    exact = torch.tensor([math.exp(8) * 1e-12, math.exp(10) * 1e-12], dtype=torch.float64)
    torch.testing.assert_close(link.difference(a + 1e-12, a), exact, rtol=1e-2, atol=0)
