"""Table of a sweep with means and standard errors over seeds, as Markdown.

    python -m experiments.seed_table --table imdb --sweep runs/losses-on-imdb
    python -m experiments.seed_table --table mnist --sweep runs/mnist-methods

``imdb`` tells which loss meets each goal: reward up by half a standard deviation of the base's
rewards, sequence reverse KL of at most 20 nats, distinct-2 within prompts at least 0.8 of the
base's, and the VADER score, which no pair is ranked by, up as well. ``mnist`` shows the share of
the target digit, at the end and on the way.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pandas
from pandas import DataFrame, Series

from fdpo import runs
from fdpo.cli import arguments

PROGRAM = "experiments.seed_table"
MNIST_OPTIONS = ["model", "method", "dpo_weight", "loss", "alpha"]
MNIST_METRICS = ["share", "out_of_distribution", "variety"]
GOALS: dict[str, Callable[[Series], bool]] = {
    "reward": lambda means: means["reward (base sd)"] >= 0.5,
    "KL": lambda means: means["KL (nats)"] <= 20,
    "distinct": lambda means: means["distinct-2 / base"] >= 0.8,
    "VADER": lambda means: means["VADER"] > 0,
}


def with_error(values: Series) -> str:
    """Returns a mean over seeds with its standard error."""
    error = f" ± {values.sem():.3f}" if len(values) > 1 else ""
    return f"{values.mean():.3f}{error}"


def log(sweep: Path, run: str) -> DataFrame:
    """Returns the log of a run."""
    return pandas.read_json(sweep / "runs" / run / runs.LOG, lines=True)


def verdict(means: Series) -> str:
    """Returns the goals that a loss misses."""
    missed = [name for name, met in GOALS.items() if not met(means)]
    return f"misses {', '.join(missed)}" if missed else "all met"


def imdb(sweep: Path, table: DataFrame) -> DataFrame:
    """Returns the changes from the base to the policy of each loss, and the goals."""
    reward = table["imdb-sentiment"] - table["base_imdb-sentiment"]
    changes = DataFrame(
        {
            "reward (base sd)": reward / table["base_imdb-sentiment_sd"],
            "KL (nats)": table["reverse_kl"],
            "JS (nats)": table["js"],
            "distinct-2 / base": table["distinct_2"] / table["base_distinct_2"],
            "VADER": table["vader"] - table["base_vader"],
            "entropy (nats)": table["entropy"] - table["base_entropy"],
            "in tail": [log(sweep, run)["tail_fraction"].mean() for run in table["run"]],
        }
    )
    groups = changes.groupby(table["loss"])
    return groups.agg(with_error).assign(goals=groups.mean().apply(verdict, axis=1))


def mnist(sweep: Path, table: DataFrame) -> DataFrame:
    """Returns the metrics of each setting of a model beside those of the base."""
    options = [name for name in MNIST_OPTIONS if name in table]
    varied = [name for name in options if table[name].nunique(dropna=False) > 1]
    groups = table.groupby(varied or ["loss"], sort=False, dropna=False)
    rows = groups[[*MNIST_METRICS, "path_kl"]].agg(with_error)
    base = groups[[f"base_{name}" for name in MNIST_METRICS]].first()
    way = groups["run"].agg(lambda names: share_on_the_way(sweep, names))
    return rows.join(base.round(3)).assign(**{"share on the way": way})


def share_on_the_way(sweep: Path, names: Series) -> str:
    """Returns the share of the target at each validation, as a mean over runs."""
    logs = pandas.concat([log(sweep, name) for name in names])
    column = "validation/share"
    if column not in logs:
        return ""
    shares = logs.dropna(subset=[column]).groupby("step")[column].mean()
    return ", ".join(f"{step}: {share:.2f}" for step, share in shares.items())


@dataclass
class Arguments:
    """Table."""

    sweep: str = field(metadata={"help": "folder of the sweep"})
    table: Literal["imdb", "mnist"] = field(metadata={"help": "columns of the table"})


def main() -> None:
    (args,) = arguments.parse((Arguments,), program=PROGRAM)
    with arguments.usage_errors(PROGRAM):
        table = pandas.read_csv(Path(args.sweep) / "table.csv")
    summary = {"imdb": imdb, "mnist": mnist}[args.table](Path(args.sweep), table)
    print(summary.reset_index().to_markdown(index=False))


if __name__ == "__main__":
    main()
