"""The claims that have been published of these divergences, each answered by what LOG.md says."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from comparisons import against, at_level, by_method, complete, verdict
from text_runs import Measured
from torch import Tensor

from fdpo import curves

DIVERSE, JS, FORWARD, BETWEEN = (
    "reverse KL has less diversity",
    "JS trades best",
    "forward KL gains least",
    "α lies between",
)
EXPECTED = {DIVERSE: "higher", JS: "lower", FORWARD: "higher"}
"""What every other method must be than the baseline for the claim to be borne out."""
ALPHAS = {"sigmoid": 0.0, "alpha 0.3": 0.3, "alpha 0.5": 0.5, "alpha 0.7": 0.7, "fkl": 1.0}


def claims(found: Measured, means: Mapping[str, Tensor]) -> list[dict[str, Any]]:
    """Compares the methods that a claim is about, a row for each comparison."""
    at_five = at_level(means, "gain", "kl", 5)
    diverse = {figure: at_level(means, figure, "gain", 0.5) for figure in ("entropy", "distinct_2")}
    rows = []
    for figure, values in diverse.items():
        rows += against(figure, "at gain 0.5", values, found, "sigmoid", DIVERSE)
    rows += against("gain", "at kl 5", at_five, found, "jsd", JS)
    gains = means["gain"][..., 1:].nan_to_num(-math.inf).amax(dim=-1)
    largest = by_method(torch.where(complete(means["kl"]), gains, math.nan))
    rows += against("gain", "at its largest", largest, found, "fkl", FORWARD)
    values = at_beta(means["gain"], found.betas, 0.1)
    rows += against("gain", "at beta 0.1", values, found, "fkl", FORWARD)
    if set(ALPHAS) <= set(found.methods):
        asked = {"gain at kl 5": at_five, **{f"{f} at gain 0.5": v for f, v in diverse.items()}}
        slopes = [slope_over_alpha(values, found.methods) for values in asked.values()]
        corrected = curves.holm([one.p for one in slopes])
        for (name, values), one, p in zip(asked.items(), slopes, corrected, strict=True):
            rows.append(alpha_lies_between(name, values, found.methods, one, p))
    return rows


def at_beta(values: Tensor, betas: Sequence[float], beta: float) -> Tensor:
    """Returns a figure at a strength, over whose logarithm the points on both sides are joined.

    Arguments:
        values: The figure, with shape (1 + draws, M, S, 1 + K): of the reference and each strength.
        betas: The strengths in ascending order, with length K.
        beta: The strength asked for; NaN for methods that have none on one side of it.

    Returns:
        Means over seeds, with shape (1 + draws, M).
    """
    found = torch.full_like(values[..., 0], math.nan)
    for m in range(values.shape[1]):
        own = [k for k in range(len(betas)) if values[0, m, :, 1 + k].isfinite().all()]
        below = [k for k in own if betas[k] <= beta]
        above = [k for k in own if betas[k] >= beta]
        if below and above:
            k, j = below[-1], above[0]
            share = 0.0 if k == j else math.log(beta / betas[k]) / math.log(betas[j] / betas[k])
            found[:, m] = torch.lerp(values[:, m, :, 1 + k], values[:, m, :, 1 + j], share)
    return by_method(found)


def of_alphas(values: Tensor, methods: Sequence[str]) -> Tensor:
    """Returns a figure of the methods of :data:`ALPHAS`, with shape (1 + draws, 5)."""
    return values[:, [methods.index(method) for method in ALPHAS]]


def slope_over_alpha(values: Tensor, methods: Sequence[str]) -> curves.Difference:
    """Returns the slope of a figure over alpha, by least squares."""
    alphas = torch.tensor(list(ALPHAS.values()), dtype=torch.float64)
    centred = alphas - alphas.mean()
    return curves.difference(of_alphas(values, methods) @ centred / centred.square().sum())


def alpha_lies_between(
    question: str, values: Tensor, methods: Sequence[str], slope: curves.Difference, p_holm: float
) -> dict[str, Any]:
    """Returns the slope over alpha, and how often the middle lies between the ends."""
    own = of_alphas(values, methods)
    low, high = own[:, [0, -1]].amin(dim=1), own[:, [0, -1]].amax(dim=1)
    middle = own[:, 1:-1]
    between = ((middle >= low[:, None]) & (middle <= high[:, None])).all(dim=1)
    reached = own.isfinite().all(dim=1)
    share = between[1:][reached[1:]].double().mean().item()
    return {
        "claim": BETWEEN, "question": f"slope over α of {question}", "method": "alpha",
        "baseline": "", "value": math.nan, "baseline_value": math.nan,
        "difference": slope.value, "low": slope.low, "high": slope.high,
        "p": slope.p, "p_holm": p_holm, "verdict": verdict(slope, p_holm),
        "between": bool(between[0]) if reached[0] else None,
        "share_of_draws_between": share if reached[0] else None,
        "values": own[0].tolist(),
    }  # fmt: skip


def answers(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Says of each claim, question by question, what came of it.

    It is *borne out* if every comparison comes out as it says, *contradicted* if one comes out the
    other way round, and *undecided* otherwise; α lies between if it does in 95 % of the bootstrap
    samples, and does not if it does in 5 %. Methods that could not be compared are named.
    """
    found = []
    for claim, question in dict.fromkeys((row["claim"], row["question"]) for row in rows):
        mine = [row for row in rows if (row["claim"], row["question"]) == (claim, question)]
        decided = [row for row in mine if row["verdict"] in ("higher", "lower", "undecided")]
        answer = between(mine[0]) if claim == BETWEEN else common(EXPECTED[claim], decided)
        counts = {
            word: [row["method"] for row in decided if row["verdict"] == word]
            for word in ("higher", "lower", "undecided")
        }
        left_out = {row["method"]: row["verdict"] for row in mine if row not in decided}
        found.append(
            {"claim": claim, "question": question, "baseline": mine[0]["baseline"],
             "answer": answer, **counts, "left_out": left_out}
        )  # fmt: skip
    return found


def common(expected: str, decided: Sequence[Mapping[str, Any]]) -> str:
    """Returns the answer of comparisons that should all come out alike."""
    verdicts = {row["verdict"] for row in decided}
    if not verdicts:
        return "not reached"
    if verdicts <= {expected}:
        return "borne out"
    return "contradicted" if verdicts - {expected, "undecided"} else "undecided"


def between(row: Mapping[str, Any]) -> str:
    """Returns the answer to whether α lies between."""
    share = row["share_of_draws_between"]
    if share is None:
        return "not reached"
    if min(share, 1 - share) > curves.LEVEL:
        return "undecided"
    return "borne out" if share > 0.5 else "contradicted"
