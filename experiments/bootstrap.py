r"""Bootstrap over prompts and seeds: means, differences with intervals, Holm's correction.

Prompts are resampled with replacement, with the same draw for all runs, and so are seeds: the
differences of two methods are paired.
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
"""The share of draws that may miss a level that the measured curve reaches."""


class Difference(NamedTuple):
    """A difference with its interval.

    Arguments:
        value: The difference; NaN where a curve does not reach the level.
        low: The lower end of the interval.
        high: The upper end of the interval.
        p: The two-sided p-value of no difference.
    """

    value: float
    low: float
    high: float
    p: float


def bootstrap_means(values: Tensor, draws: int = DRAWS, seed: int = 0) -> Tensor:
    """Returns means over prompts: first of the measured values, then of each bootstrap sample.

    Prompts without a value (NaN) are left out.

    Arguments:
        values: A row for each prompt, with shape (P, *).
        draws: The number of bootstrap samples.
        seed: The seed of the draws: equal seeds resample the same prompts.

    Returns:
        Means with shape (1 + draws, *), in float64.
    """
    weights = draw_counts(len(values), draws, seed)
    rows = values.double().reshape(len(values), -1)
    present = rows.isfinite()
    means = (weights @ torch.where(present, rows, 0)) / (weights @ present.double())
    return means.view(1 + draws, *values.shape[1:])


def draw_counts(size: int, draws: int = DRAWS, seed: int = 0) -> Tensor:
    """Returns the count of each item in each bootstrap sample, after a row of ones.

    Arguments:
        size: The number of items.
        draws: The number of bootstrap samples.
        seed: The seed of the draws.

    Returns:
        Counts with shape (1 + draws, size), in float64.
    """
    generator = torch.Generator().manual_seed(seed)
    items = torch.randint(size, (draws, size), generator=generator)
    counts = torch.zeros(draws, size, dtype=torch.float64)
    counts.scatter_add_(1, items, torch.ones_like(counts))
    return torch.cat([torch.ones(1, size, dtype=torch.float64), counts])


def average_seeds(values: Tensor, seed: int = 1) -> Tensor:
    r"""Returns means over seeds, resampled in each bootstrap sample.

    Deviations from the mean are stretched by :math:`\sqrt{S/(S-1)}`: the spread of S values
    resampled from S is too small by that factor. (Rao and Wu, 1988,
    https://doi.org/10.2307/2288945)

    Arguments:
        values: With shape (1 + draws, S): first the measured values.
        seed: The seed of the draws: equal seeds resample the same ones.

    Returns:
        Means with shape (1 + draws); NaN where a seed has no value.
    """
    size = values.shape[1]
    mean = values.mean(dim=1)
    resampled = (draw_counts(size, len(values) - 1, seed) * values).sum(dim=1) / size
    return mean + (resampled - mean) * (size / max(1, size - 1)) ** 0.5


def difference(draws: Tensor, level: float = LEVEL) -> Difference:
    """Returns a difference with its percentile interval and p-value.

    Arguments:
        draws: First the measured difference, then those of the bootstrap samples, with shape
            (1 + draws). If more than :data:`MISSED` of them are NaN, the result is NaN.
        level: The share of draws outside the interval.
    """
    value, rest = draws[0].item(), draws[1:]
    finite = rest[rest.isfinite()]
    if value != value or len(finite) < (1 - MISSED) * len(rest):
        return Difference(torch.nan, torch.nan, torch.nan, torch.nan)
    ends = torch.tensor([level / 2, 1 - level / 2], dtype=finite.dtype)
    low, high = finite.quantile(ends).tolist()
    tail = min((finite <= 0).sum().item(), (finite >= 0).sum().item())
    return Difference(value, low, high, min(1.0, 2 * (tail + 1) / (len(finite) + 1)))


def holm(p_values: Sequence[float]) -> list[float]:
    """Returns p-values corrected for multiple tests; NaN ones do not count.

    (Holm, 1979, https://www.jstor.org/stable/4615733)
    """
    order = sorted((p, i) for i, p in enumerate(p_values) if p == p)
    corrected, largest = list(p_values), 0.0
    for rank, (p, i) in enumerate(order):
        largest = max(largest, min(1.0, p * (len(order) - rank)))
        corrected[i] = largest
    return corrected
