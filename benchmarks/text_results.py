"""What a text sweep says: every method's curve, and the questions that LOG.md asked beforehand.

    python benchmarks/text_results.py --sweep runs/sweep-imdb

Reads the run folders of the sweep's finished cells (and keeps in each what the statistic is made
of) and writes ``OUTPUT_curves.json`` (each method's figures by beta), ``OUTPUT_questions.json``
(differences at equal distance and at equal reward, with their intervals; the answers to published
claims; the betas that go as far), ``OUTPUT_calibration.json`` (how often held-out pairs are right,
by what the policy says of them, with errors clustered by prompt) and ``OUTPUT_samples.json``
(completions of the same openings). Other errors and intervals are those of the bootstrap over
openings and seeds of :mod:`fdpo.curves`; pairs are drawn by prompt. A sweep that
sampled nothing has only the curves and the calibration of its pairs.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from comparisons import against, at_level
from text_calibration import calibration_curves, calibration_error
from text_claims import answers, claims
from text_runs import (
    MOMENTS,
    OF_PROBABILITIES,
    Measured,
    Run,
    commits_of,
    finished,
    measured,
    measurements,
    plain,
    says_probability,
)
from torch import Tensor

from fdpo import curves, runs
from fdpo.cli import arguments

BASELINE = "sigmoid"
QUESTIONS: tuple[tuple[str, str, tuple[float, ...]], ...] = (
    ("gain", "kl", (2, 5, 10)),
    ("gain", "js", (0.4, 0.8, 1.1)),
    ("entropy", "gain", (0.25, 0.5, 0.75)),
    ("distinct_2", "gain", (0.25, 0.5, 0.75)),
    ("calibration_error", "kl", (5,)),
    ("overconfidence", "kl", (5,)),
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
    "calibration_error": "calibration error of held-out pairs\n(root mean square, noise taken off)",
    "overconfidence": "mean probability less accuracy, held-out pairs",
    "nll": "negative log-likelihood of held-out pairs, nats",
    "accuracy": "accuracy on held-out pairs",
}


@dataclass
class Arguments:
    """Results of a text sweep."""

    sweep: str = field(default="runs/sweep-imdb", metadata={"help": "folder of the sweep"})
    betas: list[float] = field(
        default_factory=list, metadata={"help": "the strengths to compare; default: all there are"}
    )
    output: str = field(default="results/text", metadata={"help": "how the files' names begin"})
    reward: str = field(default="imdb-sentiment", metadata={"help": "the scorer that decides"})
    draws: int = field(default=curves.DRAWS, metadata={"help": "bootstrap samples"})

    def __post_init__(self) -> None:
        if self.draws < 1:
            raise ValueError(f"--draws must be at least 1, got {self.draws}")


def resampled(found: Measured, draws: int) -> dict[str, Tensor]:
    """Returns bootstrap means of all figures, with shape (1 + draws, M, S, 1 + K).

    What takes a margin for a probability is NaN for methods whose loss does not.
    """
    means = {
        name: curves.resampled(values, draws)
        for name, values in found.figures.items()
        if name != MOMENTS
    }
    if MOMENTS in found.figures:  # one method after the other: it takes memory
        every = found.figures[MOMENTS].unbind(dim=1)
        errors = [calibration_error(curves.resampled(one, draws), len(one)) for one in every]
        means["calibration_error"] = torch.stack(errors, dim=1)
    for name in means:
        for m, method in enumerate(found.methods):
            if name in OF_PROBABILITIES and not says_probability(method):
                means[name][:, m] = math.nan
    return means


def by_beta(found: Measured, means: Mapping[str, Tensor]) -> list[dict[str, Any]]:
    """Returns a row for each method and beta, its figures with their errors."""
    rows = []
    for m, method in enumerate(found.methods):
        for k, beta in enumerate([0.0, *found.betas]):
            row: dict[str, Any] = {}
            for name, values in means.items():
                draws = curves.over_seeds(values[:, m, :, k])
                if not draws[0].isnan():
                    row[name] = draws[0].item()
                    row[f"{name}_se"] = draws[draws.isfinite()].std().item()
            if row:
                every = dict.fromkeys(f"{name}{end}" for name in means for end in ("", "_se"))
                rows.append({"method": method, "beta": beta, **every, **row})  # 0: the reference
    return rows


def settings_of(cells: Sequence[Run]) -> dict[tuple[str, float], dict[str, float]]:
    """Returns the learning rate of each method and beta, and the share of completions in the tail.

    It is that of the pairs trained on in the second half of the updates, over all seeds.
    """
    found: dict[tuple[str, float], dict[str, float]] = {}
    for method, beta in dict.fromkeys((run.method, run.beta) for run in cells):
        mine = [run.folder for run in cells if (run.method, run.beta) == (method, beta)]
        tails = [measurements(folder)["tail_fraction"] for folder in mine]
        options = runs.read_json(mine[0] / runs.RECORD)["options"]
        found[method, beta] = {
            "learning_rate": options["learning_rate"], "tail_fraction": sum(tails) / len(tails)
        }  # fmt: skip
    return found


def questions(found: Measured, means: Mapping[str, Tensor]) -> list[dict[str, Any]]:
    """Answers what LOG.md asks, each method against the reverse KL."""
    rows = []
    for figure, path, levels in QUESTIONS:
        for level in levels:
            values = at_level(means, figure, path, level)
            rows += against(figure, f"at {path} {level:g}", values, found, BASELINE)
    return rows


def strengths(found: Measured, means: Mapping[str, Tensor]) -> list[dict[str, Any]]:
    """Returns the beta at which each method goes as far as is asked, with its interval.

    Its logarithm is joined by straight lines as all figures are; nearer to the reference than the
    strongest beta that ran, there is none.
    """
    points = torch.tensor([math.inf, *found.betas], dtype=torch.float64).log()
    every = {"kl": means["kl"], "log_beta": points.expand_as(means["kl"])}
    rows = []
    for level in dict(((f, p), levels) for f, p, levels in QUESTIONS)["gain", "kl"]:
        values = at_level(every, "log_beta", "kl", level)
        for m, method in enumerate(found.methods):
            one = curves.difference(values[:, m])
            ends = {name: math.exp(getattr(one, name)) for name in ("value", "low", "high")}
            rows.append({"method": method, "kl": level, **ends})
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
        shown = measurements(run.folder)["openings"]["shown"]
        policy, reference = (
            [row for row in shown if row["model"] == model] for model in ("policy", "reference")
        )
        texts["openings"] = [row["prompt"] for row in policy]
        texts["reference"] = [row["completion"] for row in reference]
        completions = [row["completion"] for row in policy]
        texts["methods"][method] = {"beta": beta, "completions": completions}
    return texts


def main() -> None:
    (own,) = arguments.parse((Arguments,), program="text_results.py")
    with arguments.usage_errors("text_results.py"):
        cells = finished(own.sweep, own.betas)
        found = measured(cells, own.reward)
    means = resampled(found, own.draws)
    record = {
        "arguments": arguments.resolved(own), "commits": commits_of(cells), "cells": len(cells),
        "missing": [list(run) for run in found.missing],
    }  # fmt: skip
    for method, beta, seed in found.missing:
        print(f"missing: {method}, beta {beta:g}, seed {seed}: {method} is left out of the answers")

    def write(name: str, content: dict[str, Any]) -> None:
        runs.write_json(f"{own.output}_{name}.json", plain(record | content))

    settings = settings_of(cells)
    rows = [row | settings.get((row["method"], row["beta"]), {}) for row in by_beta(found, means)]
    write("curves", {"units": UNITS, "rows": rows})
    write("calibration", {"rows": calibration_curves(cells)})
    if "kl" not in means:  # nothing was sampled
        return
    asked, claimed = questions(found, means), claims(found, means)
    far = strengths(found, means)
    write("questions", {"rows": asked + claimed, "answers": answers(claimed), "strengths": far})
    write("samples", samples(cells, found, means))
    for row in asked + claimed:
        interval = json.dumps(plain([row["difference"], row["low"], row["high"]]))
        print(f"{row['question']}: {row['method']} - {row['baseline']} {interval} {row['verdict']}")


if __name__ == "__main__":
    main()
