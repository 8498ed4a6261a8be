"""Tests of published claims about these divergences, as LOG.md defines them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from experiments.bootstrap import LEVEL, Difference, difference, holm
from experiments.comparisons import compare, verdict
from experiments.curves import at_beta, at_level, average_seeds_by_method, complete_curves
from experiments.metrics import SweepMetrics

DIVERSE, JS, FORWARD, BETWEEN = (
    "reverse KL has less diversity",
    "JS trades best",
    "forward KL gains least",
    "α lies between",
)
EXPECTED = {DIVERSE: "higher", JS: "lower", FORWARD: "higher"}
"""The verdict on every other method, compared with the baseline, that supports the claim."""
ALPHAS = {"sigmoid": 0.0, "alpha 0.3": 0.3, "alpha 0.5": 0.5, "alpha 0.7": 0.7, "fkl": 1.0}
VERDICTS = ("higher", "lower", "undecided")


def compare_claims(sweep: SweepMetrics, means: Mapping[str, Tensor]) -> list[dict[str, Any]]:
    """Compares the methods of each claim and returns a row for each comparison."""
    at_five = at_level(means, "gain", "kl", 5)
    diverse = {metric: at_level(means, metric, "gain", 0.5) for metric in ("entropy", "distinct_2")}
    rows = []
    for metric, values in diverse.items():
        rows += compare(metric, "at gain 0.5", values, sweep, "sigmoid", DIVERSE)
    rows += compare("gain", "at kl 5", at_five, sweep, "jsd", JS)
    rows += compare("gain", "at its largest", largest_gain(means), sweep, "fkl", FORWARD)
    values = at_beta(means["gain"], sweep.betas, 0.1)
    rows += compare("gain", "at beta 0.1", values, sweep, "fkl", FORWARD)
    if set(ALPHAS) <= set(sweep.methods):
        metrics = {f"{metric} at gain 0.5": values for metric, values in diverse.items()}
        rows += compare_alphas({"gain at kl 5": at_five, **metrics}, sweep.methods)
    return rows


def largest_gain(means: Mapping[str, Tensor]) -> Tensor:
    """Returns the largest gain of each method over its betas, with shape (1 + draws, M)."""
    gains = means["gain"][..., 1:].nan_to_num(-math.inf).amax(dim=-1)
    return average_seeds_by_method(torch.where(complete_curves(means["kl"]), gains, math.nan))


def compare_alphas(metrics: Mapping[str, Tensor], methods: Sequence[str]) -> list[dict[str, Any]]:
    """Tests metrics for a slope over alpha, and for the middle between the ends."""
    slopes = [slope_over_alpha(values, methods) for values in metrics.values()]
    corrected = holm([slope.p for slope in slopes])
    return [
        alpha_row(question, values, methods, slope, p)
        for (question, values), slope, p in zip(metrics.items(), slopes, corrected, strict=True)
    ]


def alpha_values(values: Tensor, methods: Sequence[str]) -> Tensor:
    """Returns a metric of the methods of :data:`ALPHAS`, with shape (1 + draws, 5)."""
    return values[:, [methods.index(method) for method in ALPHAS]]


def slope_over_alpha(values: Tensor, methods: Sequence[str]) -> Difference:
    """Returns the slope of a metric over alpha, by least squares."""
    alphas = torch.tensor(list(ALPHAS.values()), dtype=torch.float64)
    centred = alphas - alphas.mean()
    return difference(alpha_values(values, methods) @ centred / centred.square().sum())


def alpha_row(
    question: str, values: Tensor, methods: Sequence[str], slope: Difference, p_holm: float
) -> dict[str, Any]:
    """Returns the slope over alpha, and the share of draws with the middle between the ends."""
    path = alpha_values(values, methods)
    low, high = path[:, [0, -1]].amin(dim=1), path[:, [0, -1]].amax(dim=1)
    middle = path[:, 1:-1]
    inside = ((middle >= low[:, None]) & (middle <= high[:, None])).all(dim=1)
    reached = path.isfinite().all(dim=1)
    share = inside[1:][reached[1:]].double().mean().item()
    return {
        "claim": BETWEEN, "question": f"slope over α of {question}", "method": "alpha",
        "baseline": "", "value": math.nan, "baseline_value": math.nan,
        "difference": slope.value, "low": slope.low, "high": slope.high,
        "p": slope.p, "p_holm": p_holm, "verdict": verdict(slope, p_holm),
        "between": bool(inside[0]) if reached[0] else None,
        "share_of_draws_between": share if reached[0] else None,
        "values": path[0].tolist(),
    }  # fmt: skip


def answers(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Returns the answer to each claim, question by question.

    A claim is *borne out* if every comparison supports it, *contradicted* if one has the opposite
    result, and *undecided* otherwise. α lies between the ends if it does in 95 % of the bootstrap
    samples, and does not if it does in 5 %. Methods that could not be compared are named.
    """
    result = []
    for claim, question in dict.fromkeys((row["claim"], row["question"]) for row in rows):
        mine = [row for row in rows if (row["claim"], row["question"]) == (claim, question)]
        compared = [row for row in mine if row["verdict"] in VERDICTS]
        answer = answer_between(mine[0]) if claim == BETWEEN else answer_all(claim, compared)
        methods = {
            word: [row["method"] for row in compared if row["verdict"] == word] for word in VERDICTS
        }
        left_out = {row["method"]: row["verdict"] for row in mine if row not in compared}
        result.append(
            {"claim": claim, "question": question, "baseline": mine[0]["baseline"],
             "answer": answer, **methods, "left_out": left_out}
        )  # fmt: skip
    return result


def answer_all(claim: str, compared: Sequence[Mapping[str, Any]]) -> str:
    """Returns the answer to a claim that predicts the same verdict on all methods."""
    verdicts = {row["verdict"] for row in compared}
    if not verdicts:
        return "not reached"
    if verdicts <= {EXPECTED[claim]}:
        return "borne out"
    return "contradicted" if verdicts - {EXPECTED[claim], "undecided"} else "undecided"


def answer_between(row: Mapping[str, Any]) -> str:
    """Returns the answer to the claim that α lies between the ends."""
    share = row["share_of_draws_between"]
    if share is None:
        return "not reached"
    if min(share, 1 - share) > LEVEL:
        return "undecided"
    return "borne out" if share > 0.5 else "contradicted"
