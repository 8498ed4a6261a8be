"""Replication of slic-hf's table: the order of its losses at its values of beta.

    python -m experiments.slic_hf --sweep runs/sweep-imdb

Its table is the mean sentiment logit after training, of 48 prompts with one sample each and one
seed, with learning rates that differ by loss. Here all have the learning rate of the sweep's rule.
The program reports Spearman's rank correlation of both over its seven losses, with the interval of
the bootstrap over prompts, and the probability that chance orders the losses as well.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import permutations
from typing import Any

import torch
from torch import Tensor

from experiments.bootstrap import DRAWS, average_seeds, difference
from experiments.measurements import to_json
from experiments.metrics import SweepMetrics, load_metrics
from experiments.runs import Run, git_commits, load_runs
from fdpo.cli import arguments
from fdpo.losses.names import resolve_loss
from fdpo.plotting import parse_method
from fdpo.runs import write_json

PROGRAM = "experiments.slic_hf"
PUBLISHED = {
    0.1: {
        "sigmoid": 2.896, "hinge": 2.861, "jsd": 2.673, "alpha 0.3": 1.887, "alpha 0.5": 1.537,
        "alpha 0.7": 1.213, "fkl": 0.915,
    },
    1.0: {
        "sigmoid": 2.104, "hinge": 1.501, "jsd": 1.404, "alpha 0.3": 1.477, "alpha 0.5": 1.252,
        "alpha 0.7": 1.483, "fkl": 0.992,
    },
}  # fmt: skip
"""slic-hf's mean sentiment logit by beta and loss; its base has 1.034."""
BETAS = (*PUBLISHED, 0.5, 10.0)
"""The values of beta that it trains with."""


@dataclass
class Arguments:
    """slic-hf's table."""

    sweep: str = field(default="runs/sweep-imdb", metadata={"help": "folder of the sweep"})
    output: str = field(default="results/slic_hf.json", metadata={"help": "JSON file to write"})
    reward: str = field(
        default="imdb-sentiment", metadata={"help": "scorer whose reward is the gain"}
    )
    draws: int = field(default=DRAWS, metadata={"help": "bootstrap samples"})


def slic_hf_beta(run: Run) -> float:
    """Returns the beta of a run in the units of slic-hf, which does not match slopes."""
    curvature = resolve_loss(*parse_method(run.method))[0].curvature
    return run.beta / curvature if run.options.get("match_curvature") else run.beta


def ranks(values: Tensor) -> Tensor:
    """Returns ranks from 0 along the last dimension."""
    return values.argsort(dim=-1).argsort(dim=-1).double()


def spearman(values: Tensor, published: Tensor) -> Tensor:
    """Returns the rank correlation of each row with the published values, which are distinct."""
    mine, theirs = (r - r.mean(dim=-1, keepdim=True) for r in (ranks(values), ranks(published)))
    return (mine * theirs).sum(dim=-1) / theirs.square().sum()


def chance(value: float, size: int) -> float:
    """Returns the share of orders of ``size`` items with a rank correlation as far from 0."""
    orders = torch.tensor(list(permutations(range(size))))
    correlations = spearman(orders, torch.arange(size))
    return (correlations.abs() >= abs(value) - 1e-9).double().mean().item()


def load_slic_hf_runs(sweep: str) -> list[Run]:
    """Returns the runs of slic-hf's losses at its values of beta, in its units."""
    runs = [replace(run, beta=slic_hf_beta(run)) for run in load_runs(sweep)]
    runs = [run for run in runs if run.beta in BETAS and run.method in PUBLISHED[0.1]]
    if not runs:
        raise ValueError(f"--sweep {sweep}: no run at slic-hf's beta")
    return runs


def gain_rows(sweep: SweepMetrics, gains: Tensor) -> list[dict[str, Any]]:
    """Returns the published and the measured gain of each method at each beta."""
    rows: list[dict[str, Any]] = []
    for m, method in enumerate(sweep.methods):
        for k, beta in enumerate(sweep.betas, 1):
            draws = average_seeds(gains[:, m, :, k])
            if not draws[0].isnan():
                published = PUBLISHED.get(beta, {}).get(method)
                row = {"method": method, "beta": beta, "published": published}
                rows.append(row | {"gain": draws[0].item(), "gain_se": draws[1:].std().item()})
    return rows


def correlation_rows(sweep: SweepMetrics, gains: Tensor) -> list[dict[str, Any]]:
    """Returns the rank correlation with the published gains at each beta that has all losses."""
    rows = []
    for beta, published in PUBLISHED.items():
        if beta not in sweep.betas or not set(published) <= set(sweep.methods):
            continue
        methods = [sweep.methods.index(method) for method in published]
        values = gains[:, methods, :, 1 + sweep.betas.index(beta)].mean(dim=-1)
        if values[0].isnan().any():
            print(f"beta {beta:g}: a run is missing, no correlation")
            continue
        result = difference(spearman(values, torch.tensor(list(published.values()))))
        by_chance = chance(result.value, len(published))
        rows.append({"beta": beta, **result._asdict(), "by_chance": by_chance})
        interval = f"{result.value:.2f} ({result.low:.2f} to {result.high:.2f})"
        print(f"beta {beta:g}: {interval}, by chance in {by_chance:.3f}")
    return rows


def main() -> None:
    (args,) = arguments.parse((Arguments,), program=PROGRAM)
    with arguments.usage_errors(PROGRAM):
        runs = load_slic_hf_runs(args.sweep)
        sweep = load_metrics(runs, args.reward)
    gains = sweep.bootstrap(args.draws)["gain"]
    rows, correlations = gain_rows(sweep, gains), correlation_rows(sweep, gains)
    record = {"arguments": arguments.resolved(args), "commits": git_commits(runs)}
    write_json(args.output, to_json(record | {"rows": rows, "correlations": correlations}))


if __name__ == "__main__":
    main()
