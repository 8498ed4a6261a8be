r"""Divergences from a generator :math:`f`, by automatic differentiation in float64."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from fdpo.divergences.base import Divergence

EDGE = 30.0  # |ℓ| beyond which a link from autograd continues as a straight line


@final
@dataclass(frozen=True)
class Generated(Divergence):
    r"""A divergence with the link :math:`f'(e^\ell) - f'(1)`, differentiated by autograd.

    Beyond :math:`|\ell| = 30` the link is a straight line. Slopes are never below 0.

    Arguments:
        generator: :math:`f`, an elementwise function of float64 tensors, twice differentiable.
        name: Its name in logs and cards.
        finite_at_zero: Whether :math:`f'(0^+)` is finite.
    """

    generator: Callable[[Tensor], Tensor]
    name: str
    finite_at_zero: bool

    @property
    def exact(self) -> bool:
        return not self.finite_at_zero

    def _f(self, ratio: Tensor) -> Tensor:
        return self.generator(ratio)

    def _link(self, log_ratio: Tensor) -> Tensor:
        inner = log_ratio.double().clamp(-EDGE, EDGE)
        first, second = _derivatives(self.generator, inner.exp())
        at_one, _ = _derivatives(self.generator, inner.new_ones(1))
        line = (inner.exp() * second).clamp(min=0) * (log_ratio.double() - inner)
        return (first - at_one + line).to(log_ratio.dtype)

    def _slope(self, log_ratio: Tensor) -> Tensor:
        ratio = log_ratio.double().clamp(-EDGE, EDGE).exp()
        _, second = _derivatives(self.generator, ratio)
        return (ratio * second).clamp(min=0).to(log_ratio.dtype)

    def __str__(self) -> str:
        return self.name


def _derivatives(function: Callable[[Tensor], Tensor], at: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the first and second derivatives, differentiable themselves where ``at`` is."""
    differentiable = torch.is_grad_enabled() and at.requires_grad
    with torch.enable_grad():
        at = at if differentiable else at.detach().requires_grad_()
        first = _derivative(function(at), at)
        second = _derivative(first, at)
    return (first, second) if differentiable else (first.detach(), second.detach())


def _derivative(value: Tensor, at: Tensor) -> Tensor:
    if not value.requires_grad:  # a constant, as the derivative of a straight line is
        return torch.zeros_like(at)
    (gradient,) = torch.autograd.grad(value.sum(), at, create_graph=True, allow_unused=True)
    # clone: multiplying the lazy zeros of a straight piece would load torch's compiler
    return torch.zeros_like(at) if gradient is None else gradient.clone()


def divergence_from_generator(
    generator: Callable[[Tensor], Tensor], *, name: str | None = None
) -> Divergence:
    r"""Returns the divergence of a convex :math:`f` with :math:`f(1) = 0`.

    It measures whether the divergence is exact: if :math:`f'(0^+)` is finite, the slope falls to 0
    as :math:`\ell \to -\infty`, faster than :math:`1/|\ell|`.

    Arguments:
        generator: :math:`f(u)` in torch operations, elementwise, twice differentiable.
        name: Its name in logs and cards, by default that of the function.

    Raises:
        ValueError: If :math:`f` fails a condition; the message names the condition and the place.

    Example:
        >>> wall = divergence_from_generator(lambda u: u * u.log() + 1 / u - 1, name="wall")
        >>> wall.exact, wall.curvature
        (True, 3.0)
        >>> divergence_from_generator(lambda u: u.log(), name="log")
        Traceback (most recent call last):
        ValueError: log: f is not convex at u = 1
    """
    name = name or str(getattr(generator, "__name__", type(generator).__name__))
    log_ratio = torch.linspace(-EDGE, EDGE, 1201, dtype=torch.float64)
    ratio = log_ratio.exp()
    value = _try(generator, ratio, name)
    first, second = _derivatives(generator, ratio)
    slope = ratio * second
    at_one = generator(torch.ones(1, dtype=torch.float64)).item()
    if not abs(at_one) <= 1e-9:
        raise ValueError(f"{name}: f(1) must be 0, it is {at_one:g}")
    for term, values in (("f", value), ("f'", first), ("u f''", slope)):
        _require(values.isfinite(), ratio, f"{name}: {term} is not finite")
    curvature = slope[len(slope) // 2].item()
    # The tolerance allows for rounding where f is straight.
    rises = torch.diff(first) >= -1e-9 * (abs(curvature) + first[1:].abs())
    convex = (slope >= -1e-9 * abs(curvature)) & torch.cat([rises, rises[-1:]])
    _require(convex, ratio, f"{name}: f is not convex")
    if curvature <= 1e-12:
        raise ValueError(f"{name}: f''(1) must be above 0 to train, it is {curvature:g}")
    return Generated(generator, name, _finite_at_zero(generator))


def _try(generator: Callable[[Tensor], Tensor], ratio: Tensor, name: str) -> Tensor:
    try:
        value = generator(ratio)
    except Exception as error:
        raise ValueError(f"{name}: f fails on a float64 tensor: {error}") from error
    if not isinstance(value, Tensor) or value.shape != ratio.shape:
        raise ValueError(f"{name}: f must map a tensor to a tensor of the same shape")
    return value


def _require(holds: Tensor, ratio: Tensor, failure: str) -> None:
    if not holds.all():
        failing = ratio[~holds]
        nearest = failing[failing.log().abs().argmin()].item()  # to 1, the plainest u
        raise ValueError(f"{failure} at u = {nearest:.4g}")


def _finite_at_zero(generator: Callable[[Tensor], Tensor]) -> bool:
    ratio = torch.tensor([-50.0, -100.0], dtype=torch.float64).exp()
    near, far = (ratio * _derivatives(generator, ratio)[1]).tolist()
    return not far >= 0.499 * near > 0  # 1/|ℓ|, the fastest fall whose integral diverges, halves
