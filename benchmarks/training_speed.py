"""Pairs per second and memory of training: TRL's DPOTrainer and fdpo's, side by side.

    python benchmarks/training_speed.py --data groups --data_root DIR
    python benchmarks/training_speed.py --data dialogues --data_root DIR
    python benchmarks/training_speed.py --data pairs --data_root DIR

``groups`` are slic-hf's six pairs of six scored completions of a prompt, ``dialogues`` long prompts
with two answers, ``pairs`` one pair of each group. Each side trains for one epoch of the same pairs
in a process of its own, with the order of the round's seed. First both must agree on loss and
gradient of a batch. Memory is the growth of the process's peak after the models are loaded; the
share of the matrix rate is what fdpo's side computes, in matrix products and attention, against
the rate of a plain matrix product in the same process. TRL's precomputation is not timed, nor is
the run that fills the cache of ``fdpo, reference kept``.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Literal

from side_by_side import Row, alone, alternate, ratio, require_agreement, table, values
from text_training import (
    SIDES,
    WARM,
    Setting,
    disagreement,
    flops_per_pair,
    prepare,
    timed,
)

from fdpo import preferences
from fdpo.cli import arguments
from fdpo.runs.rows import read_rows

BATCH = {"groups": 6, "dialogues": 4, "pairs": 4}
FILES = {
    "groups": "gpt2_imdb_scored/scored_500.jsonl.gz",
    "dialogues": "hh/helpful-base_test.jsonl.gz",
    "pairs": "gpt2_imdb_scored/scored_500.jsonl.gz",
}
RULES = {"groups": "top_bottom", "pairs": "best_worst"}
TRL, PRECOMPUTED, *OURS = SIDES
KEPT = OURS[1]
SHARE = "share_of_matrix_rate"


@dataclass
class Arguments:
    """Comparison."""

    data: Literal["groups", "dialogues", "pairs"] = field(
        default="groups", metadata={"help": "what is trained on"}
    )
    data_root: str = field(default="data", metadata={"help": "folder of the data"})
    size: Literal["2.6M", "25M", "124M"] = field(default="2.6M", metadata={"help": "of the model"})
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


def load_pairs(data: str, data_root: str) -> list[preferences.Pair]:
    """Loads the pairs; groups become pairs by rank."""
    file = Path(data_root) / FILES[data]
    rank = preferences.PairingConfig(rule=RULES[data]) if data in RULES else None
    return preferences.preferences_from_rows(read_rows(file), str(file), rank)[0]


def summary(rows: list[Row]) -> str:
    """Returns the table."""
    header = ("trainer", "pairs/s", "times TRL", "times TRL, precomputed", "memory, MiB",
              "of TRL's", "of the matrix rate")  # fmt: skip
    lines = [
        (
            side,
            f"{median(values(rows, side, 'pairs_per_second')):.2f}",
            ratio(rows, side, TRL, "pairs_per_second"),
            ratio(rows, side, PRECOMPUTED, "pairs_per_second"),
            f"{median(values(rows, side, 'memory')):.0f}",
            ratio(rows, side, TRL, "memory"),
            f"{median(values(rows, side, SHARE)):.0%}" if side in OURS else "",
        )
        for side in SIDES
    ]
    return table(header, lines)


def main() -> None:
    (own,) = arguments.parse((Arguments,), program="training_speed.py")
    with tempfile.TemporaryDirectory() as name:
        setting = Setting(Path(name), own.batch, own.max_length, own.bf16)
        with arguments.usage_errors("training_speed.py"):
            pairs = load_pairs(own.data, own.data_root)
            prepare(setting, own.data_root, own.size, pairs, WARM + own.updates)
        differences = alone(disagreement, setting)
        require_agreement(differences, own.bf16)
        alone(timed, setting, KEPT, 0)  # fills the cache
        flops = {side: alone(flops_per_pair, setting, side) for side in OURS}

        def measure(side: str, number: int) -> Row:
            found: dict[str, Any] = alone(timed, setting, side, number)
            if side in OURS:
                rate = found["pairs_per_second"] * flops[side]
                found[SHARE] = rate / found["matrix_rate"]
            return found

        record = {
            "arguments": arguments.resolved(own), "differences": differences,
            "flops_per_pair": flops,
        }  # fmt: skip
        rows = alternate(SIDES, own.rounds, measure, str(own.output), record)
    print(summary(rows))


if __name__ == "__main__":
    main()
