"""What a divergence is, and how its link is evaluated, inverted, summed and continued.

:mod:`fdpo.divergences` states the formalism and holds the members.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from functools import cached_property, lru_cache
from typing import Any, final

import torch
from torch import Tensor

Elementwise = Callable[[Tensor], Tensor]


class Divergence(ABC):
    r"""An :math:`f`-divergence with its link :math:`g` and slope :math:`w`. Abstract.

    Every method is elementwise, for tensors of any shape. bf16, fp16 and integers are computed in
    float32 and give float32; float64 stays float64. Weighted sums of divergences are divergences:
    ``0.7 * a + 0.3 * b``.

    A member is a frozen dataclass whose fields are its parameters, each with a default. It defines
    ``name``, ``_f``, ``_link`` and ``_slope`` for tensors in float32 or float64, and
    ``_inverse_link``, ``_difference`` and ``exact`` where the ones below will not do.
    """

    name: str

    @abstractmethod
    def _f(self, ratio: Tensor) -> Tensor: ...

    @abstractmethod
    def _link(self, log_ratio: Tensor) -> Tensor: ...

    @abstractmethod
    def _slope(self, log_ratio: Tensor) -> Tensor: ...

    def _inverse_link(self, value: Tensor) -> Tensor:
        return invert(self._link, value)

    def _difference(self, a: Tensor, b: Tensor) -> Tensor:
        return self._link(a) - self._link(b)

    @property
    def exact(self) -> bool:
        r"""Whether :math:`f'(0^+) = -\infty`."""
        return True

    @cached_property
    def curvature(self) -> float:
        r""":math:`f''(1) = w(0)`, the strength of :math:`\beta` at the start of training."""
        return self._slope(torch.zeros(1, dtype=torch.float64)).item()

    def f(self, ratio: Tensor) -> Tensor:
        r"""Returns the generator :math:`f(u)` of ratios :math:`u \geq 0`."""
        return self._f(precise(ratio))

    def link(self, log_ratio: Tensor) -> Tensor:
        r"""Returns :math:`g(\ell)`, infinite where it overflows; its gradient is :meth:`slope`."""
        return explicit(self._link, (self._slope,), precise(log_ratio))

    def slope(self, log_ratio: Tensor) -> Tensor:
        r"""Returns :math:`w(\ell) = g'(\ell)`."""
        return self._slope(precise(log_ratio))

    def inverse_link(self, value: Tensor) -> Tensor:
        r"""Returns :math:`g^{-1}(v)`, infinite outside the range of :math:`g`; has no gradient."""
        with torch.no_grad():
            return self._inverse_link(precise(value))

    def difference(self, a: Tensor, b: Tensor) -> Tensor:
        r"""Returns :math:`g(a) - g(b)`, with the digits that subtracting two links would lose."""
        return _explicit_difference(self._difference, self._slope, a, b)

    def __mul__(self, weight: float) -> Divergence:
        return Mixture(((weight, self),))

    __rmul__ = __mul__

    def __add__(self, other: Divergence) -> Divergence:
        return Mixture(((1.0, self), (1.0, other)))

    def __str__(self) -> str:
        """The spelling that :func:`fdpo.resolve_loss` reads."""
        values = ", ".join(repr(getattr(self, name)) for name in parameters(type(self)))
        return f"{self.name}({values})" if values else self.name


@final
@dataclass(frozen=True)
class Mixture(Divergence):
    r"""A weighted sum :math:`\sum_i c_i f_i`, :math:`c_i > 0`, with link :math:`\sum_i c_i g_i`.

    Arguments:
        terms: The pairs :math:`(c_i, f_i)`. A mixture among them is replaced by its own terms.

    Raises:
        ValueError: If a weight is not a finite number above 0.
    """

    name = "mixture"
    terms: tuple[tuple[float, Divergence], ...]

    def __post_init__(self) -> None:
        flat: list[tuple[float, Divergence]] = []
        for weight, term in self.terms:
            if not (is_number(weight) and 0 < weight < math.inf):
                raise ValueError(f"the weight of {term} must be finite and above 0, got {weight!r}")
            inner = term.terms if isinstance(term, Mixture) else ((1.0, term),)
            flat.extend((weight * factor, divergence) for factor, divergence in inner)
        object.__setattr__(self, "terms", tuple(flat))

    @property
    def exact(self) -> bool:
        return any(divergence.exact for _, divergence in self.terms)

    def _sum(self, function: Callable[[Divergence], Tensor]) -> Tensor:
        first, *rest = (weight * function(divergence) for weight, divergence in self.terms)
        return sum(rest, start=first)

    def _f(self, ratio: Tensor) -> Tensor:
        return self._sum(lambda d: d._f(ratio))

    def _link(self, log_ratio: Tensor) -> Tensor:
        return self._sum(lambda d: d._link(log_ratio))

    def _slope(self, log_ratio: Tensor) -> Tensor:
        return self._sum(lambda d: d._slope(log_ratio))

    def _difference(self, a: Tensor, b: Tensor) -> Tensor:
        return self._sum(lambda d: d._difference(a, b))

    def __str__(self) -> str:
        return " + ".join(f"{c!r}*{d}" if c != 1 else str(d) for c, d in self.terms)


@final
@dataclass(frozen=True)
class TailedLink:
    r"""A link that goes on as a straight line beyond its knees; :func:`tailed` finds them.

    With :math:`c = \text{clamp}(\ell, \text{low}, \text{high})` it is
    :math:`g(c) + w(c)(\ell - c)`, with slope :math:`w(c)`. It is the link of the divergence that
    equals :math:`f` between the knees and is like a KL outside: f-DPO has the same optimum as
    long as that lies between them. A hard clamp would have gradient 0 there instead.
    """

    divergence: Divergence
    low: float
    high: float

    def __call__(self, log_ratio: Tensor) -> Tensor:
        """Returns the link, with the dtype rules of :meth:`Divergence.link`."""
        return explicit(self._link, (self._slope,), precise(log_ratio))

    def slope(self, log_ratio: Tensor) -> Tensor:
        """Returns its derivative."""
        return self._slope(precise(log_ratio))

    def difference(self, a: Tensor, b: Tensor) -> Tensor:
        """Returns the link at ``a`` less the link at ``b``; see :meth:`Divergence.difference`."""
        return _explicit_difference(self._difference, self._slope, a, b)

    def in_tail(self, log_ratio: Tensor) -> Tensor:
        """Returns whether log-ratios lie beyond a knee."""
        return (log_ratio < self.low) | (log_ratio > self.high)

    def _clamp(self, log_ratio: Tensor) -> Tensor:
        return log_ratio.clamp(self.low, self.high)

    def _slope(self, log_ratio: Tensor) -> Tensor:
        return self.divergence._slope(self._clamp(log_ratio))

    def _line(self, log_ratio: Tensor) -> Tensor:
        beyond = log_ratio - self._clamp(log_ratio)
        return torch.where(beyond == 0, 0, self._slope(log_ratio) * beyond)  # not ∞ · 0

    def _link(self, log_ratio: Tensor) -> Tensor:
        return self.divergence._link(self._clamp(log_ratio)) + self._line(log_ratio)

    def _difference(self, a: Tensor, b: Tensor) -> Tensor:
        between = self.divergence._difference(self._clamp(a), self._clamp(b))
        return between + (self._line(a) - self._line(b))


@lru_cache(maxsize=1024)
def tailed(divergence: Divergence, tail: float | None = 10.0) -> TailedLink:
    r"""Returns a divergence's link with straight tails where it would grow too steep.

    The knees are the log-ratios nearest to 0, on either side, where
    :math:`w = w(0) e^\tau`; a side without one has no tail.

    Arguments:
        divergence: Any divergence, mixtures taken as a whole.
        tail: :math:`\tau > 0`, the log of the largest slope in units of the slope at 0; ``None``
            or infinity for no tail. In float32 slopes overflow for :math:`\tau` above 80.

    Raises:
        ValueError: If ``tail`` is not above 0.
    """
    tail = math.inf if tail is None else tail
    if not tail > 0:
        raise ValueError(f"tail must be above 0, or None for no tail, got {tail}")
    return TailedLink(divergence, -_knee(divergence, tail, -1), _knee(divergence, tail, 1))


def _knee(divergence: Divergence, tail: float, side: int) -> float:
    """Returns the distance from 0 to the nearest steep point on a side, infinity without one."""
    target = math.log(divergence.curvature) + tail

    def steep(distance: Tensor) -> Tensor:
        return divergence.slope(side * distance).log() >= target

    grid = torch.logspace(-9, 9, 2001, dtype=torch.float64)
    beyond = steep(grid).nonzero()
    if math.isinf(tail) or len(beyond) == 0:
        return math.inf
    first = int(beyond[0])
    low, high = (grid[first - 1] if first else torch.zeros_like(grid[0])), grid[first]
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if steep(middle) else (middle, high)
    return high.item()


def precise(values: Tensor) -> Tensor:
    """Returns float64 as it is and everything else in float32: the ulp of bf16 is 4 at 1,000."""
    return values if values.dtype == torch.float64 else values.float()


def explicit(
    value: Callable[..., Tensor], derivatives: tuple[Elementwise, ...], *inputs: Tensor
) -> Tensor:
    """Evaluates an elementwise function of tensors with its first derivatives given.

    The gradient that autograd finds for the formula of a link is not its slope: that of ``expm1``
    is 0 below -17.3 in float32, and a branch not taken turns an infinity into NaN.

    Arguments:
        value: A sum of functions of one input each.
        derivatives: Their derivatives. Autograd differentiates them for the second derivative.
        inputs: Tensors of one shape.
    """
    return _Explicit.apply(value, derivatives, *inputs)


class _Explicit(torch.autograd.Function):
    @staticmethod
    def forward(value: Callable[..., Tensor], _: Any, *inputs: Tensor) -> Tensor:
        return value(*inputs)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, ctx.derivatives, *tensors = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        pairs = zip(ctx.derivatives, ctx.saved_tensors, strict=True)
        return None, None, *(gradients[0] * derivative(x) for derivative, x in pairs)


def _explicit_difference(
    value: Callable[[Tensor, Tensor], Tensor], slope: Elementwise, a: Tensor, b: Tensor
) -> Tensor:
    a, b = torch.broadcast_tensors(precise(a), precise(b))
    return explicit(value, (slope, lambda x: -slope(x)), a, b)


def invert(increasing: Elementwise, values: Tensor) -> Tensor:
    r"""Inverts a non-decreasing elementwise function that is 0 at 0, to the last float64.

    It bisects the bit patterns of :math:`|x|`, which are ordered as the numbers are, so that
    arguments near 0 get all their digits too. Outside the function's range it gives infinities.
    """
    target = values.double()
    sign = torch.where(target < 0, -1.0, 1.0).to(target)
    infinity = torch.full_like(target, torch.inf).view(torch.int64)
    low, high = torch.zeros_like(infinity), infinity
    for _ in range(63):
        middle = low + (high - low) // 2
        below = sign * increasing(sign * middle.view(torch.float64)) <= target.abs()
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    size = torch.where(high == infinity, torch.inf, low.view(torch.float64))
    return torch.where((target == 0) | target.isnan(), target, sign * size).to(values.dtype)


def parameters(kind: type[Divergence]) -> tuple[str, ...]:
    """Returns the names of the parameters of a class of divergences."""
    return tuple(field.name for field in fields(kind)) if is_dataclass(kind) else ()


def is_number(value: object) -> bool:
    """Returns whether a value is a real number (a bool is not)."""
    return isinstance(value, int | float) and not isinstance(value, bool)
