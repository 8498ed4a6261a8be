"""Methods compared where their curves are equal, with the bootstrap of :mod:`fdpo.curves`.

Figures are bootstrap means with shape (1 + draws, M, S, 1 + K): first what was measured, for M
methods, S seeds, and the reference and K strengths.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from text_runs import Measured
from torch import Tensor

from fdpo import curves

DISTANCES = ("kl", "js")
"""Figures whose square root the points of a curve are joined over, by straight lines: near the
reference a reward grows with the root of the distance, and a line over the distance itself would
lie below the curve."""


def at_level(means: Mapping[str, Tensor], figure: str, path: str, level: float) -> Tensor:
    """Returns a figure of each method where its curve crosses a level, shape (1 + draws, M).

    NaN where a seed's curve lacks a strength that another has or does not reach the level.
    """
    steps = means[path]
    if path in DISTANCES:
        steps, level = steps.clamp(min=0).sqrt(), math.sqrt(level)
    found = curves.along(means["kl"], steps, means[figure], level)
    return by_method(torch.where(complete(means["kl"]), found, math.nan))


def complete(values: Tensor) -> Tensor:
    """Returns which seeds of which methods have all of its strengths, with shape (M, S).

    Arguments:
        values: A figure that every run has, with shape (1 + draws, M, S, 1 + K).
    """
    there = values[0].isfinite()
    return (there == there.any(dim=1, keepdim=True)).all(dim=-1)


def by_method(values: Tensor) -> Tensor:
    """Returns means over seeds, with shape (1 + draws, M), of what has shape (1 + draws, M, S)."""
    return torch.stack([curves.over_seeds(one) for one in values.unbind(dim=1)], dim=1)


def against(
    figure: str, where: str, values: Tensor, found: Measured, baseline: str, claim: str = ""
) -> list[dict[str, Any]]:
    """Compares every method with one, with Holm's correction over those that can be compared.

    Arguments:
        figure: What is compared.
        where: Where on the curves, in words: ``at PATH LEVEL``.
        values: The figure of each method there, with shape (1 + draws, M).
        found: What was measured.
        baseline: The method that the others are compared with.
        claim: The published claim that it answers.
    """
    if baseline not in found.methods:
        return []
    base = values[:, found.methods.index(baseline)]
    others = [(m, method) for m, method in enumerate(found.methods) if method != baseline]
    differences = [curves.difference(values[:, m] - base) for m, _ in others]
    corrected = curves.holm([one.p for one in differences])
    return [
        {
            "claim": claim, "question": f"{figure} {where}", "method": method, "baseline": baseline,
            "value": values[0, m].item(), "baseline_value": base[0].item(),
            "difference": one.value, "low": one.low, "high": one.high, "p": one.p, "p_holm": p,
            "verdict": found.why_not(method, figure) or found.why_not(baseline, figure)
            or (f"{baseline} not reached" if base[0].isnan() else verdict(one, p)),
        }
        for (m, method), one, p in zip(others, differences, corrected, strict=True)
    ]  # fmt: skip


def verdict(found: curves.Difference, corrected: float) -> str:
    """Says in a word or two what a comparison shows."""
    if math.isnan(found.value):
        return "not reached"
    if corrected >= curves.LEVEL or found.low <= 0 <= found.high:
        return "undecided"
    return "higher" if found.value > 0 else "lower"
