"""Straight tails: links that continue as straight lines where they would grow too steep."""

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
        return explicit_difference(self._difference, self._slope, a, b)

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
