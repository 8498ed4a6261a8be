"""Growth of the cost of a training step: TRL's DPOTrainer and fdpo's, side by side.

    python -m benchmarks.growth --data_root DIR

The base is four scored completions of 16 tokens of one prompt of 32 tokens (all six pairs of them
in an update) and a model of 2.6 M parameters. One property changes at a time: the completions of a
prompt, the prompt's length, the prompts of an update, the model. Texts are random words of one
token each. Both sides run the reference in every update.
"""

from __future__ import annotations

import json
import random
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.comparison import (
    Row,
    alternate,
    in_fresh_process,
    markdown_table,
    ratio,
    side_values,
)
from benchmarks.trainers import DEFAULTS, WARMUP, Setting, prepare, time_training
from fdpo import preferences
from fdpo.cli import arguments

PROGRAM = "benchmarks.growth"
COMPLETION = 16  # tokens


@dataclass(frozen=True)
class Point:
    """The contents of an update."""

    completions: int = 4
    prompt_tokens: int = 32
    prompts: int = 1
    size: str = "2.6M"

    @property
    def pairs(self) -> int:
        """The pairs of an update: every two completions of a prompt form one."""
        return self.prompts * self.completions * (self.completions - 1) // 2

    def label(self, side: str) -> str:
        """Returns the name of a side at this point."""
        return (
            f"{side}, {self.size}: {self.prompts} prompts of {self.prompt_tokens} tokens, "
            f"{self.completions} completions"
        )


BASE = Point()
GROWTH: dict[str, tuple[Any, ...]] = {
    "completions": (2, 4, 8),
    "prompt_tokens": (16, 32, 128),
    "prompts": (1, 4),
    "size": ("2.6M", "25M"),
}
"""the field of a point that changes -> its values"""
POINTS = [(name, replace(BASE, **{name: value})) for name in GROWTH for value in GROWTH[name]]


@dataclass
class Arguments:
    """Comparison."""

    data_root: str = field(default="data", metadata={"help": "folder of the data"})
    updates: int = field(default=2, metadata={"help": "timed updates of a round"})
    rounds: int = field(default=5, metadata={"help": "rounds"})
    bf16: bool = field(default=False, metadata={"help": "bfloat16 autocast"})
    output: str = field(default="results/cost_growth.json", metadata={"help": "JSON file to write"})


def one_token_words(data_root: str) -> list[str]:
    """Returns the words that are one token, with the space in front of them."""
    vocabulary = json.loads((Path(data_root) / "gpt2_bpe/vocab.json").read_text(encoding="utf-8"))
    return [f" {token[1:]}" for token in vocabulary if token[0] == "Ġ" and token[1:].isalpha()]


def random_groups(point: Point, vocabulary: list[str], updates: int) -> list[preferences.Group]:
    """Returns the prompts of a number of updates, with completions of random words."""
    generator = random.Random(0)

    def text(tokens: int) -> str:
        return "".join(generator.choices(vocabulary, k=tokens))

    n = point.completions
    return [
        preferences.Group(
            text(point.prompt_tokens), [text(COMPLETION) for _ in range(n)],
            [float(score) for score in range(n)], [False] * n,
        )
        for _ in range(updates * point.prompts)
    ]  # fmt: skip


def prepare_point(point: Point, folder: Path, args: Arguments) -> Setting:
    """Writes the model and the pairs of a point."""
    folder.mkdir()
    setting, updates = Setting(folder, point.pairs, 1024, args.bf16), WARMUP + args.updates
    groups = random_groups(point, one_token_words(args.data_root), updates)
    pairs, _ = preferences.make_pairs(groups, rule="all")
    prepare(setting, args.data_root, point.size, pairs, updates)
    return setting


def summary(rows: list[Row]) -> str:
    """Returns the results as a table."""
    lines = []
    for name, point in POINTS:
        trl, ours = (point.label(side) for side in DEFAULTS)
        medians = [
            f"{median(side_values(rows, side, value)):.{digits}f}"
            for value, digits in (("seconds_per_update", 2), ("memory", 0))
            for side in (trl, ours)
        ]
        speedup = ratio(rows, trl, ours, "seconds_per_update")
        lines.append((name.replace("_", " "), getattr(point, name), point.pairs, *medians, speedup))
    header = ("property", "value", "pairs", "TRL, s", "fdpo, s", "TRL, MiB", "fdpo, MiB", "faster")
    return markdown_table(header, lines)


def main() -> None:
    (args,) = arguments.parse((Arguments,), program=PROGRAM)
    with tempfile.TemporaryDirectory() as folder:
        points = dict.fromkeys(point for _, point in POINTS)
        with arguments.usage_errors(PROGRAM):
            settings = {
                point: prepare_point(point, Path(folder) / str(number), args)
                for number, point in enumerate(points)
            }
        sides = {
            point.label(side): (setting, side)
            for point, setting in settings.items()
            for side in DEFAULTS
        }

        def measure(label: str, number: int) -> Row:
            return in_fresh_process(time_training, *sides[label], number)

        record = {"arguments": arguments.resolved(args)}
        rows = alternate(list(sides), args.rounds, measure, args.output, record)
    print(summary(rows))


if __name__ == "__main__":
    main()
