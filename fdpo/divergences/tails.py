"""Links with straight tails where the slope would grow too steep."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import final

import torch
from torch import Tensor

from fdpo.divergences.base import Divergence
from fdpo.divergences.numerics import explicit, explicit_difference, precise


@final
@dataclass(frozen=True)
class TailedLink:
    r"""A link that continues as a straight line beyond its knees; :func:`tailed` makes one.

    With :math:`c = \text{clamp}(\ell, \text{low}, \text{high})` it is
    :math:`g(c) + w(c)(\ell - c)`, with slope :math:`w(c)`. It is the link of a divergence that
    equals :math:`f` between the knees and resembles a KL outside, so f-DPO has the same optimum as
    long as the optimum is between the knees. A hard clamp would have gradient 0 outside.

    Arguments:
        divergence: The divergence with the link :math:`g`.
        low: The lower knee, :math:`-\infty` without one.
        high: The upper knee, :math:`\infty` without one.
    """

    divergence: Divergence
    low: float
    high: float

    def __call__(self, log_ratio: Tensor) -> Tensor:
        """Returns the link; dtypes are as in :meth:`Divergence.link`."""
        return explicit(self._link, (self._slope,), precise(log_ratio))

    def slope(self, log_ratio: Tensor) -> Tensor:
        """Returns the slope of the link."""
        return self._slope(precise(log_ratio))

    def difference(self, a: Tensor, b: Tensor) -> Tensor:
        """Returns the link at ``a`` minus the link at ``b``; see :meth:`Divergence.difference`."""
        return explicit_difference(self._difference, self._slope, a, b)

    def in_tail(self, log_ratio: Tensor) -> Tensor:
        """Returns which log-ratios are beyond a knee."""
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
    r"""Returns the link of a divergence, with straight tails where it would grow too steep.

    The knees are the log-ratios nearest to 0, on either side, where
    :math:`w = w(0) e^\tau`; a side where :math:`w` stays below that has no tail.

    Arguments:
        divergence: Any divergence; the knees of a mixture are those of the whole sum.
        tail: :math:`\tau > 0`, the log of the largest slope in units of the slope at 0; ``None``
            or infinity for no tail. In float32 slopes overflow for :math:`\tau` above 80.

    Raises:
        ValueError: If ``tail`` is not above 0.

    Example:
        >>> import torch
        >>> from fdpo import get_divergence, tailed
        >>> link = tailed(get_divergence("forward_kl"), 2.0)
        >>> round(link.low, 6), link.high  # e^-ℓ reaches e^2 at ℓ = -2
        (-2.0, inf)
        >>> link.slope(torch.tensor([-9.0, -2.0, 0.0]))
        tensor([7.3891, 7.3891, 1.0000])
    """
    check_tail(tail)
    tail = math.inf if tail is None else tail
    return TailedLink(divergence, -_knee(divergence, tail, -1), _knee(divergence, tail, 1))


def check_tail(tail: float | None) -> None:
    """Raises `ValueError` if a slope factor is not above 0."""
    if tail is not None and not tail > 0:
        raise ValueError(f"tail must be above 0 (inf or None turns it off), got {tail}")


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
