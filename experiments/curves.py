r"""Curves of methods over beta, and their values at a given distance, reward or beta.

A method trained at several values of beta traces a *curve*: from the reference, through its runs in
the order of their distance, by straight lines. Methods are compared where their curves are equally
far from the reference, never at equal :math:`\beta`, which has a different meaning for each.

Metrics here are bootstrap means with shape (1 + draws, M, S, 1 + K): first the measured values, for
M methods, S seeds, and the reference and K values of beta.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from experiments.bootstrap import average_seeds

DISTANCES = ("kl", "js")
"""Metrics over whose square root the points of a curve are joined by straight lines: near the
reference a reward grows with the root of the distance, and a line over the distance itself would
lie below the curve."""


def crossing(path: Tensor, values: Tensor, level: float) -> Tensor:
    """Returns the value of curves where their path first crosses a level; NaN if it does not.

    Arguments:
        path: The path at each point of the curves, in order, with shape (*, K).
        values: The value at each point, with shape (*, K).
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
    value = at(values[..., :-1]) + share * (at(values[..., 1:]) - at(values[..., :-1]))
    return torch.where(crosses.any(dim=-1), value, torch.nan)


def ordered_crossing(distance: Tensor, path: Tensor, values: Tensor, level: float) -> Tensor:
    """Returns the value of curves at a level, their points in the order of their distance.

    Arguments:
        distance: The distance of each run, with shape (*, K); the reference is one of them, at 0.
        path: The path that crosses the level, with shape (*, K).
        values: The values, with shape (*, K).
        level: The level.
    """
    order = distance.argsort(dim=-1)
    return crossing(path.gather(-1, order), values.gather(-1, order), level)


def at_level(means: Mapping[str, Tensor], metric: str, path: str, level: float) -> Tensor:
    """Returns a metric of each method where its curve crosses a level, shape (1 + draws, M).

    NaN where a seed's curve lacks a beta that another has or does not reach the level.
    """
    steps = means[path]
    if path in DISTANCES:
        steps, level = steps.clamp(min=0).sqrt(), math.sqrt(level)
    values = ordered_crossing(means["kl"], steps, means[metric], level)
    return average_seeds_by_method(torch.where(complete_curves(means["kl"]), values, math.nan))


def at_beta(values: Tensor, betas: Sequence[float], beta: float) -> Tensor:
    """Returns a metric at a beta, on the line over log beta through the points on both sides.

    Arguments:
        values: The metric, with shape (1 + draws, M, S, 1 + K): of the reference and each beta.
        betas: The values of beta in ascending order, with length K.
        beta: The beta at which to read the metric.

    Returns:
        Means over seeds, with shape (1 + draws, M); NaN for methods without a run on one side.
    """
    result = torch.full_like(values[..., 0], math.nan)
    for m in range(values.shape[1]):
        present = [k for k in range(len(betas)) if values[0, m, :, 1 + k].isfinite().all()]
        below = [k for k in present if betas[k] <= beta]
        above = [k for k in present if betas[k] >= beta]
        if below and above:
            k, j = below[-1], above[0]
            share = 0.0 if k == j else math.log(beta / betas[k]) / math.log(betas[j] / betas[k])
            result[:, m] = torch.lerp(values[:, m, :, 1 + k], values[:, m, :, 1 + j], share)
    return average_seeds_by_method(result)


def complete_curves(values: Tensor) -> Tensor:
    """Returns which seeds of which methods have all betas of their method, with shape (M, S).

    Arguments:
        values: A metric that every run has, with shape (1 + draws, M, S, 1 + K).
    """
    present = values[0].isfinite()
    return (present == present.any(dim=1, keepdim=True)).all(dim=-1)


def average_seeds_by_method(values: Tensor) -> Tensor:
    """Returns the means over seeds of each method: shape (1 + draws, M, S) to (1 + draws, M)."""
    return torch.stack([average_seeds(method) for method in values.unbind(dim=1)], dim=1)
