"""Seconds of a sweep over losses and beta: TRL's DPOTrainer cell by cell, and fdpo's.

    python benchmarks/sweep_speed.py --data_root DIR

Twelve cells, slic-hf's losses at two strengths, each one epoch of the same six pairs of six scored
completions of a prompt, from the same weights. TRL has an equal of every cell (of the alpha
divergence with its coefficient 1 - alpha); first both must agree on loss and gradient of each.
A sweep is one process and is timed from its first trainer to its last update, tokenisation and all;
fdpo's cells share a cache of the reference on disk that is empty at the start of each sweep.
"""

from __future__ import annotations

import itertools
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Literal

from side_by_side import (
    Row,
    alone,
    alternate,
    now,
    ratio,
    require_agreement,
    table,
    values,
)
from text_training import (
    DEFAULTS,
    Setting,
    disagreement,
    prepare,
    trainer_of,
)
from training_speed import BATCH, load_pairs

from fdpo.cli import arguments

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
    size: Literal["2.6M", "25M", "124M"] = field(default="2.6M", metadata={"help": "of the model"})
    updates: int = field(default=2, metadata={"help": "updates of a cell"})
    batch: int = field(default=BATCH["groups"], metadata={"help": "pairs of an update"})
    rounds: int = field(default=2, metadata={"help": "rounds"})
    bf16: bool = field(default=False, metadata={"help": "bfloat16 autocast"})
    output: str = field(default="results/sweep_speed.json", metadata={"help": "file of figures"})


def cells(side: str) -> list[Options]:
    """Returns the options of the cells of a side."""
    both = itertools.product(LOSSES.values(), BETAS)
    return [{**(ours if side == "fdpo" else trl), "beta": beta} for (ours, trl), beta in both]


def disagreements(setting: Setting) -> dict[str, float]:
    """Returns the largest differences of loss and gradient over the cells."""
    pairs = zip(cells("fdpo"), cells("trl"), strict=True)
    found = [disagreement(setting, ours, trl) for ours, trl in pairs]
    return {name: max(one[name] for one in found) for name in found[0]}


def sweep(setting: Setting, side: str, seed: int) -> Row:
    """Trains all cells and returns the seconds."""
    begun = now()
    with tempfile.TemporaryDirectory() as empty:
        for options in cells(side):
            trainer_of(setting, side, Path(empty), seed, **options).train()
    return {"seconds": now() - begun}


def summary(rows: list[Row]) -> str:
    """Returns the table."""
    lines = [
        (
            side,
            f"{median(values(rows, side, 'seconds')):.1f}",
            ratio(rows, DEFAULTS[0], side, "seconds"),
        )
        for side in DEFAULTS
    ]
    return table(("trainer", "seconds", "times TRL"), lines)


def main() -> None:
    (own,) = arguments.parse((Arguments,), program="sweep_speed.py")
    with tempfile.TemporaryDirectory() as name:
        setting = Setting(Path(name), own.batch, bf16=own.bf16)
        with arguments.usage_errors("sweep_speed.py"):
            pairs = load_pairs("groups", own.data_root)
            prepare(setting, own.data_root, own.size, pairs, own.updates)
        differences = alone(disagreements, setting)
        require_agreement(differences, own.bf16)
        record = {"arguments": arguments.resolved(own), "differences": differences}

        def measure(side: str, number: int) -> Row:
            return alone(sweep, setting, side, number)

        rows = alternate(DEFAULTS, own.rounds, measure, own.output, record)
    print(summary(rows))


if __name__ == "__main__":
    main()
