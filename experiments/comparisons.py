"""Comparisons of methods where their curves are equal, with bootstrap intervals."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from experiments.bootstrap import LEVEL, Difference, difference, holm
from experiments.metrics import SweepMetrics


def compare(
    metric: str,
    where: str,
    values: Tensor,
    sweep: SweepMetrics,
    baseline: str,
    claim: str = "",
) -> list[dict[str, Any]]:
    """Compares every method with one, with Holm's correction over those that can be compared.

    Arguments:
        metric: The metric.
        where: The place on the curves, in words: ``at PATH LEVEL``.
        values: The metric of each method there, with shape (1 + draws, M).
        sweep: The metrics of the sweep.
        baseline: The method to compare the others with.
        claim: The published claim that the comparison tests.
    """
    if baseline not in sweep.methods:
        return []
    base = values[:, sweep.methods.index(baseline)]
    others = [(m, method) for m, method in enumerate(sweep.methods) if method != baseline]
    differences = [difference(values[:, m] - base) for m, _ in others]
    corrected = holm([result.p for result in differences])
    return [
        {
            "claim": claim, "question": f"{metric} {where}", "method": method, "baseline": baseline,
            "value": values[0, m].item(), "baseline_value": base[0].item(),
            "difference": result.value, "low": result.low, "high": result.high,
            "p": result.p, "p_holm": p,
            "verdict": sweep.exclusion(method, metric) or sweep.exclusion(baseline, metric)
            or (f"{baseline} not reached" if base[0].isnan() else verdict(result, p)),
        }
        for (m, method), result, p in zip(others, differences, corrected, strict=True)
    ]  # fmt: skip


def verdict(result: Difference, p_holm: float) -> str:
    """Returns the outcome of a comparison in a word or two."""
    if math.isnan(result.value):
        return "not reached"
    if p_holm >= LEVEL or result.low <= 0 <= result.high:
        return "undecided"
    return "higher" if result.value > 0 else "lower"
