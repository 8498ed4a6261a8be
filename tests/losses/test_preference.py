"""Preference losses: minima, label smoothing, behaviour far from 0."""

import math
from collections.abc import Callable

import pytest
import torch
from scipy.optimize import brentq
from torch import Tensor

from fdpo import PREFERENCES, fdpo_loss, get_divergence


def logit(p: float) -> float:
    return math.log(p / (1 - p))


# The margin at the minimum of each preference loss if the chosen completion is preferred with
# probability p.
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
        margin,
        0 * margin,
        get_divergence("reverse_kl"),
        beta=1.0,
        preference=name,
        label_smoothing=0.2,
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
