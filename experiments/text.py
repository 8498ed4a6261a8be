"""Results of a text sweep: the curves of all methods, and the answers to LOG.md's questions.

    python -m experiments.text --sweep runs/sweep-imdb

Reads the folders of the sweep's finished runs, saves the measurements in each, and writes
``OUTPUT_curves.json`` (the metrics of each method by beta), ``OUTPUT_questions.json`` (differences
at equal distance and at equal reward with their intervals, the answers to published claims, the
betas that reach a distance), ``OUTPUT_calibration.json`` (the accuracy on held-out pairs by the
policy's probability, with errors clustered by prompt) and ``OUTPUT_samples.json`` (completions of
the same prompts). Other errors and intervals come from the bootstrap over prompts and seeds of
:mod:`experiments.bootstrap`, which resamples pairs by prompt. A sweep without samples has only the
curves and the calibration of its pairs.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from experiments.bootstrap import DRAWS, average_seeds, difference
from experiments.calibration import calibration_curves
from experiments.claims import answers, compare_claims
from experiments.comparisons import compare
from experiments.curves import at_level
from experiments.measurements import measurements, to_json
from experiments.metrics import SweepMetrics, load_metrics
from experiments.runs import Run, git_commits, load_runs
from fdpo.cli import arguments
from fdpo.runs import write_json

PROGRAM = "experiments.text"
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
"""The metric, the path on which curves are equal, and the levels."""
DISTANCE_LEVELS = QUESTIONS[0][2]
UNITS = {
    "gain": "reward gained, standard deviations of the base",
    "kl": "reverse KL of a completion, nats",
    "js": "JS divergence (twice the usual one), nats",
    "entropy": "entropy of the next token, nats",
    "distinct_2": "distinct-2",
    "vader": "VADER gained",
    "calibration_error": "calibration error of held-out pairs\n(root mean square, less noise)",
    "overconfidence": "mean probability minus accuracy, held-out pairs",
    "nll": "negative log-likelihood of held-out pairs, nats",
    "accuracy": "accuracy on held-out pairs",
}


@dataclass
class Arguments:
    """Results of a text sweep."""

    PREFIXES = ("output",)

    sweep: str = field(default="runs/sweep-imdb", metadata={"help": "folder of the sweep"})
    betas: list[float] = field(
        default_factory=list, metadata={"help": "values of beta to compare; default: all"}
    )
    output: str = field(default="results/text", metadata={"help": "prefix of the files to write"})
    reward: str = field(
        default="imdb-sentiment", metadata={"help": "scorer whose reward is the gain"}
    )
    draws: int = field(default=DRAWS, metadata={"help": "bootstrap samples"})

    def __post_init__(self) -> None:
        if self.draws < 1:
            raise ValueError(f"--draws must be at least 1, got {self.draws}")


def curve_rows(
    runs: Sequence[Run], sweep: SweepMetrics, means: Mapping[str, Tensor]
) -> list[dict[str, Any]]:
    """Returns a row for each method and beta (0: the reference), metrics with their errors."""
    settings = run_settings(runs)
    rows = []
    for m, method in enumerate(sweep.methods):
        for k, beta in enumerate([0.0, *sweep.betas]):
            if row := point_metrics({name: values[:, m, :, k] for name, values in means.items()}):
                columns = {f"{name}{end}": None for name in means for end in ("", "_se")}
                names = {"method": method, "beta": beta}
                rows.append(names | columns | row | settings.get((method, beta), {}))
    return rows


def point_metrics(means: Mapping[str, Tensor]) -> dict[str, float]:
    """Returns the metrics of a point with their errors, without those that are NaN."""
    row = {}
    for name, values in means.items():
        draws = average_seeds(values)
        if not draws[0].isnan():
            row[name] = draws[0].item()
            row[f"{name}_se"] = draws[draws.isfinite()].std().item()
    return row


def run_settings(runs: Sequence[Run]) -> dict[tuple[str, float], dict[str, float]]:
    """Returns the learning rate and the share of completions in the tail, by method and beta.

    The share is that of the training pairs in the second half of the updates, over all seeds.
    """
    settings = {}
    for method, beta in dict.fromkeys((run.method, run.beta) for run in runs):
        mine = [run for run in runs if (run.method, run.beta) == (method, beta)]
        tails = [measurements(run.folder)["tail_fraction"] for run in mine]
        settings[method, beta] = {
            "learning_rate": mine[0].options["learning_rate"],
            "tail_fraction": sum(tails) / len(tails),
        }
    return settings


def compare_at_levels(sweep: SweepMetrics, means: Mapping[str, Tensor]) -> list[dict[str, Any]]:
    """Answers the questions, each method compared with the reverse KL."""
    rows = []
    for metric, path, levels in QUESTIONS:
        for level in levels:
            values = at_level(means, metric, path, level)
            rows += compare(metric, f"at {path} {level:g}", values, sweep, BASELINE)
    return rows


def betas_at_distance(sweep: SweepMetrics, means: Mapping[str, Tensor]) -> list[dict[str, Any]]:
    """Returns the beta at which each method reaches a distance, with its interval.

    Its logarithm is joined by straight lines as all metrics are. Nearer to the reference than the
    largest beta of a method there is none.
    """
    points = torch.tensor([math.inf, *sweep.betas], dtype=torch.float64).log()
    curves = {"kl": means["kl"], "log_beta": points.expand_as(means["kl"])}
    rows = []
    for level in DISTANCE_LEVELS:
        values = at_level(curves, "log_beta", "kl", level)
        for m, method in enumerate(sweep.methods):
            result = difference(values[:, m])
            ends = {name: math.exp(getattr(result, name)) for name in ("value", "low", "high")}
            rows.append({"method": method, "kl": level, **ends})
    return rows


def sample_texts(
    runs: Sequence[Run], sweep: SweepMetrics, means: Mapping[str, Tensor]
) -> dict[str, Any]:
    """Returns completions of three prompts by each method, at its beta nearest to 5 nats."""
    texts: dict[str, Any] = {"prompts": [], "reference": [], "methods": {}}
    for m, method in enumerate(sweep.methods):
        distances = (means["kl"][0, m, 0, 1:] - 5).abs().nan_to_num(math.inf)
        if not distances.isfinite().any():
            continue
        beta = sweep.betas[int(distances.argmin())]
        key = method, beta, sweep.seeds[0]
        [run] = [run for run in runs if (run.method, run.beta, run.seed) == key]
        shown = measurements(run.folder)["prompts"]["shown"]
        policy, reference = (
            [row for row in shown if row["model"] == model] for model in ("policy", "reference")
        )
        texts["prompts"] = [row["prompt"] for row in policy]
        texts["reference"] = [row["completion"] for row in reference]
        completions = [row["completion"] for row in policy]
        texts["methods"][method] = {"beta": beta, "completions": completions}
    return texts


def main() -> None:
    (args,) = arguments.parse((Arguments,), program=PROGRAM)
    with arguments.usage_errors(PROGRAM):
        runs = load_runs(args.sweep, args.betas)
        sweep = load_metrics(runs, args.reward)
    means = sweep.bootstrap(args.draws)
    record = {
        "arguments": arguments.resolved(args), "commits": git_commits(runs), "runs": len(runs),
        "missing": [list(run) for run in sweep.missing],
    }  # fmt: skip
    for method, beta, seed in sweep.missing:
        print(f"missing: {method}, beta {beta:g}, seed {seed}: {method} is left out of the answers")

    def write(name: str, content: dict[str, Any]) -> None:
        write_json(f"{args.output}_{name}.json", to_json(record | content))

    write("curves", {"units": UNITS, "rows": curve_rows(runs, sweep, means)})
    write("calibration", {"rows": calibration_curves(runs)})
    if "kl" not in means:  # nothing was sampled
        return
    comparisons, claims = compare_at_levels(sweep, means), compare_claims(sweep, means)
    betas = betas_at_distance(sweep, means)
    rows = comparisons + claims
    write("questions", {"rows": rows, "answers": answers(claims), "betas": betas})
    write("samples", sample_texts(runs, sweep, means))
    for row in rows:
        interval = json.dumps(to_json([row["difference"], row["low"], row["high"]]))
        print(f"{row['question']}: {row['method']} - {row['baseline']} {interval} {row['verdict']}")


if __name__ == "__main__":
    main()
