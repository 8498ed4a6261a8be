"""What a text sweep says: every method's curve, and the questions that LOG.md asked beforehand.

    python benchmarks/text_results.py --sweep runs/sweep-imdb

Reads the run folders of the sweep's finished cells and writes ``OUTPUT_curves.json`` (each method's
figures by beta), ``OUTPUT_questions.json`` (differences at equal distance and at equal reward, with
their intervals), ``OUTPUT_calibration.json`` (how often held-out pairs are right, by what the
policy says of them, with errors clustered by prompt) and ``OUTPUT_samples.json`` (completions of
the same openings). Other errors and intervals are those of the bootstrap over openings and seeds of
:mod:`fdpo.curves`; pairs are drawn by prompt. A sweep that sampled nothing has only the curves and
the calibration of its pairs.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from text_runs import Measured, Run, finished, measured
from torch import Tensor

from fdpo import arguments, curves, estimators, runs
from fdpo.calibration import right
from fdpo.rows import read_rows

BASELINE = "sigmoid"
DISTANCES = ("kl", "js")
"""Figures whose square root the points of a curve are joined over, by straight lines: near the
reference a reward grows with the root of the distance, and a line over the distance itself would
lie below the curve."""
STEPS = 8  # of the calibration curve, from one half to 1
ALPHAS = {"sigmoid": 0.0, "alpha 0.3": 0.3, "alpha 0.5": 0.5, "alpha 0.7": 0.7, "fkl": 1.0}
QUESTIONS: tuple[tuple[str, str, tuple[float, ...]], ...] = (
    ("gain", "kl", (2, 5, 10)),
    ("gain", "js", (0.4, 0.8, 1.1)),
    ("entropy", "gain", (0.25, 0.5, 0.75)),
    ("distinct_2", "gain", (0.25, 0.5, 0.75)),
    ("ece", "kl", (5,)),
    ("nll", "kl", (5,)),
)
"""What is asked for, where curves are equal in what, and at which levels."""
UNITS = {
    "gain": "reward gained, standard deviations of the base",
    "kl": "reverse KL of a completion, nats",
    "js": "JS divergence (twice the usual one), nats",
    "entropy": "entropy of the next token, nats",
    "distinct_2": "distinct-2",
    "vader": "VADER gained",
    "ece": "expected calibration error of held-out pairs",
    "nll": "negative log-likelihood of held-out pairs, nats",
    "accuracy": "accuracy on held-out pairs",
}


@dataclass
class Arguments:
    """Results of a text sweep."""

    sweep: str = field(default="runs/sweep-imdb", metadata={"help": "folder of the sweep"})
    output: str = field(default="results/text", metadata={"help": "how the files' names begin"})
    reward: str = field(default="imdb-sentiment", metadata={"help": "the scorer that decides"})
    draws: int = field(default=curves.DRAWS, metadata={"help": "bootstrap samples"})

    def __post_init__(self) -> None:
        if self.draws < 1:
            raise ValueError(f"--draws must be at least 1, got {self.draws}")


def resampled(found: Measured, draws: int) -> dict[str, Tensor]:
    """Returns bootstrap means of all figures, with shape (1 + draws, M, S, 1 + K).

    The calibration error of resampled pairs is larger than that of the pairs, as absolute values
    are of noise: its draws are moved to have the mean that was measured.
    """
    means = {name: curves.resampled(values, draws) for name, values in found.figures.items()}
    if "ece" in means:
        ece = means["ece"].abs().sum(dim=-1)
        means["ece"] = torch.cat([ece[:1], ece[1:] - ece[1:].mean(dim=0) + ece[0]])
    return means


def by_beta(found: Measured, means: Mapping[str, Tensor]) -> list[dict[str, Any]]:
    """Returns a row for each method and beta, its figures with their errors."""
    rows = []
    for m, method in enumerate(found.methods):
        for k, beta in enumerate([0.0, *found.betas]):
            row: dict[str, Any] = {"method": method, "beta": beta}  # 0: the reference
            for name, values in means.items():
                draws = curves.over_seeds(values[:, m, :, k])
                spread = draws[draws.isfinite()]
                row[name] = None if draws[0].isnan() else draws[0].item()
                row[f"{name}_se"] = None if draws[0].isnan() else spread.std().item()
            rows.append(row)
    return rows


def at_level(means: Mapping[str, Tensor], figure: str, path: str, level: float) -> Tensor:
    """Returns a figure of each method where its curve crosses a level, shape (1 + draws, M).

    NaN where a run of the method is missing or a seed's curve does not reach the level.
    """
    steps = means[path]
    if path in DISTANCES:
        steps, level = steps.clamp(min=0).sqrt(), math.sqrt(level)
    found = curves.along(means["kl"], steps, means[figure], level)
    complete = means["kl"][0].isfinite().all(dim=-1)
    return by_method(torch.where(complete, found, math.nan))


def by_method(values: Tensor) -> Tensor:
    """Returns means over seeds, with shape (1 + draws, M), of what has shape (1 + draws, M, S)."""
    return torch.stack([curves.over_seeds(one) for one in values.unbind(dim=1)], dim=1)


def against(
    question: str, values: Tensor, found: Measured, baseline: str, claim: str = ""
) -> list[dict[str, Any]]:
    """Compares every method with one, with Holm's correction over those that can be compared."""
    if baseline not in found.methods:
        return []
    base = values[:, found.methods.index(baseline)]
    others = [(m, method) for m, method in enumerate(found.methods) if method != baseline]
    differences = [curves.difference(values[:, m] - base) for m, _ in others]
    corrected = curves.holm([one.p for one in differences])
    return [
        {
            "claim": claim, "question": question, "method": method, "baseline": baseline,
            "value": values[0, m].item(), "baseline_value": base[0].item(),
            "difference": one.value, "low": one.low, "high": one.high, "p": one.p, "p_holm": p,
            "verdict": found.why_not(method) or found.why_not(baseline)
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


def questions(found: Measured, means: Mapping[str, Tensor]) -> list[dict[str, Any]]:
    """Answers what LOG.md asks, each method against the reverse KL."""
    rows = []
    for figure, path, levels in QUESTIONS:
        for level in levels:
            values = at_level(means, figure, path, level)
            rows += against(f"{figure} at {path} {level:g}", values, found, BASELINE)
    return rows


def claims(found: Measured, means: Mapping[str, Tensor]) -> list[dict[str, Any]]:
    """Answers the claims that have been published."""
    methods = found.methods
    at_five = at_level(means, "gain", "kl", 5)
    diverse = {
        f"{figure} at gain 0.5": at_level(means, figure, "gain", 0.5)
        for figure in ("entropy", "distinct_2")
    }
    rows = []
    for name, values in diverse.items():
        rows += against(name, values, found, BASELINE, "reverse KL has less diversity")
    rows += against("gain at kl 5", at_five, found, "jsd", "JS trades best")
    largest = by_method(means["gain"][..., 1:].amax(dim=-1))  # NaN where a run is missing
    least = "forward KL gains least"
    rows += against("largest gain", largest, found, "fkl", least)
    if 0.1 in found.betas:
        values = by_method(means["gain"][..., 1 + found.betas.index(0.1)])
        rows += against("gain at beta 0.1", values, found, "fkl", least)
    if set(ALPHAS) <= set(methods):
        for name, values in {"gain at kl 5": at_five, **diverse}.items():
            rows.append(alpha_lies_between(name, values, methods))
    return rows


def alpha_lies_between(question: str, values: Tensor, methods: Sequence[str]) -> dict[str, Any]:
    """Returns the slope of a figure over alpha, and how often the middle lies between the ends."""
    own = values[:, [methods.index(method) for method in ALPHAS]]
    alphas = torch.tensor(list(ALPHAS.values()), dtype=torch.float64)
    centred = alphas - alphas.mean()
    slope = curves.difference(own @ centred / centred.square().sum())
    low, high = own[:, [0, -1]].amin(dim=1), own[:, [0, -1]].amax(dim=1)
    middle = own[:, 1:-1]
    between = ((middle >= low[:, None]) & (middle <= high[:, None])).all(dim=1)
    reached = own.isfinite().all(dim=1)
    share = between[1:][reached[1:]].double().mean().item()
    return {
        "claim": "α lies between", "question": f"slope over α of {question}", "method": "alpha",
        "baseline": "", "value": math.nan, "baseline_value": math.nan,
        "difference": slope.value, "low": slope.low, "high": slope.high,
        "p": slope.p, "p_holm": slope.p, "verdict": verdict(slope, slope.p),
        "between": bool(between[0]) if reached[0] else None,
        "share_of_draws_between": share if reached[0] else None,
        "values": own[0].tolist(),
    }  # fmt: skip


def calibration_curves(cells: Sequence[Run]) -> list[dict[str, Any]]:
    """Returns, for each method and beta, what is right among pairs of each probability."""
    rows = []
    for method, beta in dict.fromkeys((run.method, run.beta) for run in cells):
        mine = [run for run in cells if (run.method, run.beta) == (method, beta)]
        pairs = [row for run in mine for row in read_rows(run.folder / "held_out_pairs.jsonl")]
        margins = torch.tensor([row["margin"] for row in pairs], dtype=torch.float64)
        sure = margins.abs().sigmoid()  # of the side that it prefers: from one half to 1
        correct = right(margins)
        bins = ((sure - 0.5) * 2 * STEPS).long().clamp(max=STEPS - 1)
        for one in range(STEPS):
            if inside := (bins == one).nonzero().flatten().tolist():
                share = estimators.mean(correct[inside], [pairs[i]["prompt"] for i in inside])
                rows.append({
                    "method": method, "beta": beta, "pairs": len(inside),
                    "says": sure[inside].mean().item(), "right": share.value,
                    "right_se": share.error,
                })  # fmt: skip
    return rows


def samples(cells: Sequence[Run], found: Measured, means: Mapping[str, Tensor]) -> dict[str, Any]:
    """Returns completions of three openings by each method, at its beta nearest to 5 nats."""
    texts: dict[str, Any] = {"openings": [], "reference": [], "methods": {}}
    for m, method in enumerate(found.methods):
        distances = (means["kl"][0, m, 0, 1:] - 5).abs().nan_to_num(math.inf)
        if not distances.isfinite().any():
            continue
        beta = found.betas[int(distances.argmin())]
        [run] = [r for r in cells if (r.method, r.beta, r.seed) == (method, beta, found.seeds[0])]
        rows = [r for r in read_rows(run.folder / "samples.jsonl") if r["sample"] == 0]
        by = {(r["model"], r["opening"]): r for r in rows if r["opening"] < 3}
        numbers = sorted({opening for _, opening in by})
        texts["openings"] = [by["policy", i]["prompt"] for i in numbers]
        texts["reference"] = [by["reference", i]["completion"] for i in numbers]
        completions = [by["policy", i]["completion"] for i in numbers]
        texts["methods"][method] = {"beta": beta, "completions": completions}
    return texts


def plain(value: Any) -> Any:
    """Returns a value in which NaN is None, as JSON has it, and numbers have six digits."""
    if isinstance(value, dict):
        return {name: plain(one) for name, one in value.items()}
    if isinstance(value, list):
        return [plain(one) for one in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value


def main() -> None:
    (own,) = arguments.parse((Arguments,), program="text_results.py")
    with arguments.usage_errors():
        cells = finished(own.sweep)
        found = measured(cells, own.reward)
    means = resampled(found, own.draws)
    commits = sorted({runs.read_json(run.folder / runs.RECORD)["git_commit"] for run in cells})
    record = {
        "arguments": arguments.resolved(own), "commits": commits, "cells": len(cells),
        "missing": [list(run) for run in found.missing],
    }  # fmt: skip
    for method, beta, seed in found.missing:
        print(f"missing: {method}, beta {beta:g}, seed {seed}: {method} is left out of the answers")

    def write(name: str, content: dict[str, Any]) -> None:
        runs.write_json(f"{own.output}_{name}.json", plain(record | content))

    write("curves", {"units": UNITS, "rows": by_beta(found, means)})
    write("calibration", {"rows": calibration_curves(cells)})
    if "kl" not in means:  # nothing was sampled
        return
    answers = questions(found, means) + claims(found, means)
    write("questions", {"rows": answers})
    write("samples", samples(cells, found, means))
    for row in answers:
        interval = json.dumps(plain([row["difference"], row["low"], row["high"]]))
        print(f"{row['question']}: {row['method']} - {row['baseline']} {interval} {row['verdict']}")


if __name__ == "__main__":
    main()
