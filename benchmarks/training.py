"""Pairs per second and memory of training: TRL's DPOTrainer and fdpo's, side by side.

    python -m benchmarks.training --data groups --data_root DIR
    python -m benchmarks.training --data dialogues --data_root DIR
    python -m benchmarks.training --data pairs --data_root DIR

``groups`` are slic-hf's six pairs of six scored completions of a prompt, ``dialogues`` long prompts
with two answers, ``pairs`` one pair of each group. Each side trains for one epoch of the same pairs
in a separate process; the round's number is the seed of their order. Before that both must agree on
the loss and the gradient of a batch. Memory is the growth of the process's peak after the models
are loaded. The share of the matrix rate compares the matrix products and the attention of fdpo's
side with the rate of a plain matrix product in the same process. Neither TRL's precomputation nor
the run that fills the cache of ``fdpo, reference cached`` is timed.
"""

from __future__ import annotations

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
    ratio,
    require_agreement,
    side_values,
)
from benchmarks.trainers import (
    BATCH,
    SIDES,
    WARMUP,
    Setting,
    disagreement,
    flops_per_pair,
    load_pairs,
    prepare,
    time_training,
)
from fdpo.cli import arguments

PROGRAM = "benchmarks.training"
TRL, PRECOMPUTED, *FDPO = SIDES
FDPO_CACHED = FDPO[1]
SHARE = "share_of_matrix_rate"


@dataclass
class Arguments:
    """Comparison."""

    data: Literal["groups", "dialogues", "pairs"] = field(
        default="groups", metadata={"help": "data set to train on"}
    )
    data_root: str = field(default="data", metadata={"help": "folder of the data"})
    size: Literal["2.6M", "25M", "124M"] = field(
        default="2.6M", metadata={"help": "parameters of the model"}
    )
    batch: int | None = field(
        default=None, metadata={"help": "pairs of an update; default: 6; dialogues and pairs 4"}
    )
    max_length: int = field(default=512, metadata={"help": "longest prompt with completion"})
    updates: int = field(default=2, metadata={"help": "timed updates of a round"})
    rounds: int = field(default=5, metadata={"help": "rounds"})
    bf16: bool = field(default=False, metadata={"help": "bfloat16 autocast"})
    output: str | None = field(
        default=None, metadata={"help": "default: results/training_speed_DATA_SIZE.json"}
    )

    def __post_init__(self) -> None:
        self.batch = self.batch or BATCH[self.data]
        self.output = self.output or f"results/training_speed_{self.data}_{self.size}.json"


def summary(rows: list[Row]) -> str:
    """Returns the results as a table."""
    header = ("trainer", "pairs/s", "times TRL", "times TRL, precomputed", "memory, MiB",
              "of TRL's", "of the matrix rate")  # fmt: skip
    lines = [
        (
            side,
            f"{median(side_values(rows, side, 'pairs_per_second')):.2f}",
            ratio(rows, side, TRL, "pairs_per_second"),
            ratio(rows, side, PRECOMPUTED, "pairs_per_second"),
            f"{median(side_values(rows, side, 'memory')):.0f}",
            ratio(rows, side, TRL, "memory"),
            f"{median(side_values(rows, side, SHARE)):.0%}" if side in FDPO else "",
        )
        for side in SIDES
    ]
    return markdown_table(header, lines)


def main() -> None:
    (args,) = arguments.parse((Arguments,), program=PROGRAM)
    with tempfile.TemporaryDirectory() as folder:
        setting = Setting(Path(folder), args.batch, args.max_length, args.bf16)
        with arguments.usage_errors(PROGRAM):
            pairs = load_pairs(args.data, args.data_root)
            prepare(setting, args.data_root, args.size, pairs, WARMUP + args.updates)
        differences = in_fresh_process(disagreement, setting)
        require_agreement(differences, args.bf16)
        in_fresh_process(time_training, setting, FDPO_CACHED, 0)  # fills the cache
        flops = {side: in_fresh_process(flops_per_pair, setting, side) for side in FDPO}

        def measure(side: str, number: int) -> Row:
            row: dict[str, Any] = in_fresh_process(time_training, setting, side, number)
            if side in FDPO:
                row[SHARE] = row["pairs_per_second"] * flops[side] / row["matrix_rate"]
            return row

        record = {
            "arguments": arguments.resolved(args), "differences": differences,
            "flops_per_pair": flops,
        }  # fmt: skip
        rows = alternate(SIDES, args.rounds, measure, str(args.output), record)
    print(summary(rows))


if __name__ == "__main__":
    main()
