"""Seconds of a sweep over losses and beta: TRL's DPOTrainer run by run, and fdpo's.

    python -m benchmarks.sweep --data_root DIR

Twelve runs: slic-hf's losses at two values of beta, each one epoch of the same six pairs of six
scored completions of a prompt, from the same weights. TRL has an equal of every run (the alpha
divergence has the coefficient 1 - alpha there). Before that both must agree on the loss and the
gradient of each. A sweep is one process, timed from its first trainer to its last update, with
tokenisation. fdpo's runs share a reference cache on disk, which starts empty in each sweep.
"""

from __future__ import annotations

import itertools
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Literal

from benchmarks.comparison import (
    Row,
    alternate,
    in_fresh_process,
    markdown_table,
    now,
    ratio,
    require_agreement,
    side_values,
)
from benchmarks.trainers import (
    BATCH,
    DEFAULTS,
    Setting,
    disagreement,
    load_pairs,
    make_trainer,
    prepare,
)
from fdpo.cli import arguments

PROGRAM = "benchmarks.sweep"
Options = dict[str, Any]
ALPHA = {"f_divergence_type": "alpha_divergence"}
LOSSES: dict[str, tuple[Options, Options]] = {
    "sigmoid": ({"loss": "sigmoid"}, {}),
    "hinge": ({"loss": "hinge"}, {"loss_type": ["hinge"]}),
    "jsd": ({"loss": "jsd"}, {"f_divergence_type": "js_divergence"}),
    "fkl": ({"loss": "fkl"}, {"f_divergence_type": "forward_kl"}),
    "alpha .3": ({"loss": "alpha", "alpha": 0.3}, {**ALPHA, "f_alpha_divergence_coef": 0.7}),
    "alpha .7": ({"loss": "alpha", "alpha": 0.7}, {**ALPHA, "f_alpha_divergence_coef": 0.3}),
}
"""loss -> options of fdpo's configuration, and of TRL's."""
BETAS = (0.1, 1.0)


@dataclass
class Arguments:
    """Comparison."""

    data_root: str = field(default="data", metadata={"help": "folder of the data"})
    size: Literal["2.6M", "25M", "124M"] = field(
        default="2.6M", metadata={"help": "parameters of the model"}
    )
    updates: int = field(default=2, metadata={"help": "updates of a run"})
    batch: int = field(default=BATCH["groups"], metadata={"help": "pairs of an update"})
    rounds: int = field(default=2, metadata={"help": "rounds"})
    bf16: bool = field(default=False, metadata={"help": "bfloat16 autocast"})
    output: str = field(default="results/sweep_speed.json", metadata={"help": "JSON file to write"})


def run_options(side: str) -> list[Options]:
    """Returns the options of the runs of a side."""
    pairs = itertools.product(LOSSES.values(), BETAS)
    return [{**(ours if side == "fdpo" else trl), "beta": beta} for (ours, trl), beta in pairs]


def largest_disagreement(setting: Setting) -> dict[str, float]:
    """Returns the largest differences of loss and gradient over the runs."""
    pairs = zip(run_options("fdpo"), run_options("trl"), strict=True)
    differences = [disagreement(setting, ours, trl) for ours, trl in pairs]
    return {name: max(run[name] for run in differences) for name in differences[0]}


def time_sweep(setting: Setting, side: str, seed: int) -> Row:
    """Trains all runs and returns the seconds."""
    start = now()
    with tempfile.TemporaryDirectory() as empty:
        for options in run_options(side):
            make_trainer(setting, side, Path(empty), seed, **options).train()
    return {"seconds": now() - start}


def summary(rows: list[Row]) -> str:
    """Returns the results as a table."""
    lines = [
        (
            side,
            f"{median(side_values(rows, side, 'seconds')):.1f}",
            ratio(rows, DEFAULTS[0], side, "seconds"),
        )
        for side in DEFAULTS
    ]
    return markdown_table(("trainer", "seconds", "times TRL"), lines)


def main() -> None:
    (args,) = arguments.parse((Arguments,), program=PROGRAM)
    with tempfile.TemporaryDirectory() as folder:
        setting = Setting(Path(folder), args.batch, bf16=args.bf16)
        with arguments.usage_errors(PROGRAM):
            pairs = load_pairs("groups", args.data_root)
            prepare(setting, args.data_root, args.size, pairs, args.updates)
        differences = in_fresh_process(largest_disagreement, setting)
        require_agreement(differences, args.bf16)
        record = {"arguments": arguments.resolved(args), "differences": differences}

        def measure(side: str, number: int) -> Row:
            return in_fresh_process(time_sweep, setting, side, number)

        rows = alternate(DEFAULTS, args.rounds, measure, args.output, record)
    print(summary(rows))


if __name__ == "__main__":
    main()
