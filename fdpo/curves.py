r"""What methods gain at equal distance from the reference, with intervals by the bootstrap.

A method trained at several strengths traces a *curve*: from the reference, through its runs in the
order of their distance, by straight lines. Two methods are compared where their curves are equally
far, never at equal :math:`\beta`, which means another thing to each. Openings are drawn with
replacement, one draw for all runs, and so are seeds: differences are paired.
(Efron and Tibshirani, 1993, *An Introduction to the Bootstrap*, chapter 13)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

DRAWS = 10_000
LEVEL = 0.05
MISSED = 0.05
"""Share of draws that may miss a level which the curve itself reaches."""


class Difference(NamedTuple):
    """A difference with its interval.

    Arguments:
        value: The difference; NaN where a curve does not reach the level.
        low: The interval's lower end.
        high: Its upper end.
        p: The two-sided p-value of no difference.
    """

    value: float
    low: float
    high: float
    p: float


def resampled(values: Tensor, draws: int = DRAWS, seed: int = 0) -> Tensor:
    """Returns means over openings: of what was measured, then of each bootstrap sample.

    Openings without a value (NaN) are left out.

    Arguments:
        values: A row for each opening, with shape (P, *).
        draws: Bootstrap samples.
        seed: The seed of the draws: equal seeds draw the same openings.

    Returns:
        Means with shape (1 + draws, *), in float64.
    """
    weights = counts(len(values), draws, seed)
    rows = values.double().reshape(len(values), -1)
    there = rows.isfinite()
    means = (weights @ torch.where(there, rows, 0)) / (weights @ there.double())
    return means.view(1 + draws, *values.shape[1:])


def counts(size: int, draws: int = DRAWS, seed: int = 0) -> Tensor:
    """Returns how often each of ``size`` is drawn, with shape (1 + draws, size); first, once."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(size, (draws, size), generator=generator)
    found = torch.zeros(draws, size, dtype=torch.float64)
    found.scatter_add_(1, drawn, torch.ones_like(found))
    return torch.cat([torch.ones(1, size, dtype=torch.float64), found])


def crossing(path: Tensor, values: Tensor, level: float) -> Tensor:
    """Returns the value of curves where their path first crosses a level; NaN if it does not.

    Arguments:
        path: What leads to the level at each point of the curves, in order, with shape (*, K).
        values: What is asked for at each point, with shape (*, K).
        level: The level.

    Returns:
        The values, with shape (*).
    """
    start, end = path[..., :-1], path[..., 1:]
    crosses = (start - level) * (end - level) <= 0
    first = crosses.int().argmax(dim=-1, keepdim=True)

    def at(points: Tensor) -> Tensor:
        return points.gather(-1, first)[..., 0]

    span = at(end) - at(start)
    share = torch.where(span == 0, 0, (level - at(start)) / torch.where(span == 0, 1, span))
    found = at(values[..., :-1]) + share * (at(values[..., 1:]) - at(values[..., :-1]))
    return torch.where(crosses.any(dim=-1), found, torch.nan)


def along(distance: Tensor, path: Tensor, values: Tensor, level: float) -> Tensor:
    """Returns the value of curves at a level, their points in the order of their distance.

    Arguments:
        distance: How far each run is, with shape (*, K); the reference is one of them, at 0.
        path: What the level is one of, with shape (*, K).
        values: What is asked for, with shape (*, K).
        level: The level.
    """
    order = distance.argsort(dim=-1)
    return crossing(path.gather(-1, order), values.gather(-1, order), level)


def over_seeds(values: Tensor, seed: int = 1) -> Tensor:
    r"""Returns means over seeds, drawn anew in each bootstrap sample.

    Deviations from the mean are stretched by :math:`\sqrt{S/(S-1)}`: the spread of S values drawn
    from S is too small by that. (Rao and Wu, 1988, https://doi.org/10.2307/2288945)

    Arguments:
        values: With shape (1 + draws, S): first what was measured.
        seed: The seed of the draws: equal seeds draw the same ones.

    Returns:
        Means with shape (1 + draws); NaN where a seed has none.
    """
    size = values.shape[1]
    mean = values.mean(dim=1)
    drawn = (counts(size, len(values) - 1, seed) * values).sum(dim=1) / size
    return mean + (drawn - mean) * (size / max(1, size - 1)) ** 0.5


def difference(draws: Tensor, level: float = LEVEL) -> Difference:
    """Returns a difference with its percentile interval and p-value.

    Arguments:
        draws: First the difference that was measured, then those of the bootstrap samples, with
            shape (1 + draws). If more than :data:`MISSED` of them are NaN, all is.
        level: What the interval leaves out.
    """
    value, rest = draws[0].item(), draws[1:]
    found = rest[rest.isfinite()]
    if value != value or len(found) < (1 - MISSED) * len(rest):
        return Difference(torch.nan, torch.nan, torch.nan, torch.nan)
    low, high = found.quantile(torch.tensor([level / 2, 1 - level / 2], dtype=found.dtype)).tolist()
    tail = min((found <= 0).sum().item(), (found >= 0).sum().item())
    return Difference(value, low, high, min(1.0, 2 * (tail + 1) / (len(found) + 1)))


def holm(p_values: Sequence[float]) -> list[float]:
    """Returns p-values corrected for being several; NaN ones do not count.

    (Holm, 1979, https://www.jstor.org/stable/4615733)
    """
    order = sorted((p, i) for i, p in enumerate(p_values) if p == p)
    corrected, largest = list(p_values), 0.0
    for rank, (p, i) in enumerate(order):
        largest = max(largest, min(1.0, p * (len(order) - rank)))
        corrected[i] = largest
    return corrected
