"""Whether the losses of slic-hf come out in its order, at its beta.

    python benchmarks/slic_hf.py --sweep runs/sweep-imdb

Its table is the mean sentiment logit after training, of 48 prompts with one sample each and one
seed, with learning rates that differ by loss. Here all have the learning rate of the sweep's rule.
Spearman's rank correlation of both, over its seven losses, with the interval of the bootstrap over
openings, and how often chance orders the losses as well.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import permutations
from typing import Any

import torch
from text_results import resampled
from text_runs import Run, commits_of, finished, measured, plain
from torch import Tensor

from fdpo import curves, runs
from fdpo.cli import arguments
from fdpo.losses.names import resolve_loss
from fdpo.plotting import parse_method

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
"""The strengths that it trains with."""


@dataclass
class Arguments:
    """slic-hf's table."""

    sweep: str = field(default="runs/sweep-imdb", metadata={"help": "folder of the sweep"})
    output: str = field(default="results/slic_hf.json", metadata={"help": "file of figures"})
    reward: str = field(default="imdb-sentiment", metadata={"help": "the scorer that decides"})
    draws: int = field(default=curves.DRAWS, metadata={"help": "bootstrap samples"})


def its_beta(run: Run) -> float:
    """Returns the strength of a run as slic-hf counts it, which does not match slopes."""
    options = runs.read_json(run.folder / runs.RECORD)["options"]
    curvature = resolve_loss(*parse_method(run.method))[0].curvature
    return run.beta / curvature if options.get("match_curvature") else run.beta


def ranks(values: Tensor) -> Tensor:
    """Returns ranks from 0 along the last dimension."""
    return values.argsort(dim=-1).argsort(dim=-1).double()


def spearman(values: Tensor, published: Tensor) -> Tensor:
    """Returns the rank correlation of each row with the published figures, which differ."""
    mine, theirs = (r - r.mean(dim=-1, keepdim=True) for r in (ranks(values), ranks(published)))
    return (mine * theirs).sum(dim=-1) / theirs.square().sum()


def by_chance(value: float, size: int) -> float:
    """Returns the share of orders of ``size`` things whose rank correlation is as far from 0."""
    orders = torch.tensor(list(permutations(range(size))))
    found = spearman(orders, torch.arange(size))
    return (found.abs() >= abs(value) - 1e-9).double().mean().item()


def main() -> None:
    (own,) = arguments.parse((Arguments,), program="slic_hf.py")
    with arguments.usage_errors("slic_hf.py"):
        cells = [replace(run, beta=its_beta(run)) for run in finished(own.sweep)]
        cells = [run for run in cells if run.beta in BETAS and run.method in PUBLISHED[0.1]]
        if not cells:
            raise ValueError(f"--sweep {own.sweep}: no cell at slic-hf's beta")
        found = measured(cells, own.reward)
    gains = resampled(found, own.draws)["gain"]
    rows: list[dict[str, Any]] = []
    for m, method in enumerate(found.methods):
        for k, beta in enumerate(found.betas, 1):
            draws = curves.over_seeds(gains[:, m, :, k])
            if not draws[0].isnan():
                published = PUBLISHED.get(beta, {}).get(method)
                row = {"method": method, "beta": beta, "published": published}
                rows.append(row | {"gain": draws[0].item(), "gain_se": draws[1:].std().item()})
    correlations = []
    for beta, table in PUBLISHED.items():
        if beta in found.betas and set(table) <= set(found.methods):
            place = [found.methods.index(method) for method in table]
            values = gains[:, place, :, 1 + found.betas.index(beta)].mean(dim=-1)
            if values[0].isnan().any():
                print(f"beta {beta:g}: a run is missing, no correlation")
                continue
            draws = spearman(values, torch.tensor(list(table.values())))
            one = curves.difference(draws)
            chance = by_chance(one.value, len(table))
            correlations.append({"beta": beta, **one._asdict(), "by_chance": chance})
            interval = f"{one.value:.2f} ({one.low:.2f} to {one.high:.2f})"
            print(f"beta {beta:g}: {interval}, by chance in {chance:.3f}")
    record = {"arguments": arguments.resolved(own), "commits": commits_of(cells)}
    runs.write_json(own.output, plain(record | {"rows": rows, "correlations": correlations}))


if __name__ == "__main__":
    main()
