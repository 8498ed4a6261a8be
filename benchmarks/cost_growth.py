"""How the cost of a training step grows: TRL's DPOTrainer and fdpo's, side by side.

    python benchmarks/cost_growth.py --data_root DIR

From one base, four scored completions of 16 tokens of one prompt of 32 tokens (all six pairs of
them in an update) and a model of 2.6 M parameters, one thing changes at a time: the completions of
a prompt, the prompt's length, the prompts of an update, the model. Texts are random words of one
token each. The reference is run in every update, by both.
"""

from __future__ import annotations

import json
import random
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

from side_by_side import Row, alone, alternate, ratio, table, values
from text_training import DEFAULTS, WARM, Setting, prepare, timed

from fdpo import preferences
from fdpo.cli import arguments

COMPLETION = 16  # tokens


@dataclass(frozen=True)
class Point:
    """What an update consists of."""

    completions: int = 4
    prompt_tokens: int = 32
    prompts: int = 1
    size: str = "2.6M"

    @property
    def pairs(self) -> int:
        """The pairs of an update: every two completions of a prompt meet."""
        return self.prompts * self.completions * (self.completions - 1) // 2

    def at(self, side: str) -> str:
        """Names a side at this point."""
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
    output: str = field(default="results/cost_growth.json", metadata={"help": "file of figures"})


def words(data_root: str) -> list[str]:
    """Returns the words that are one token, with the space in front of them."""
    vocabulary = json.loads((Path(data_root) / "gpt2_bpe/vocab.json").read_text(encoding="utf-8"))
    return [f" {token[1:]}" for token in vocabulary if token[0] == "Ġ" and token[1:].isalpha()]


def groups(point: Point, vocabulary: list[str], updates: int) -> list[preferences.Group]:
    """Makes the prompts of so many updates, with completions of random words."""
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


def prepared(point: Point, folder: Path, own: Arguments) -> Setting:
    """Writes the model and the pairs of a point."""
    folder.mkdir()
    setting, updates = Setting(folder, point.pairs, 1024, own.bf16), WARM + own.updates
    pairs, _ = preferences.make_pairs(groups(point, words(own.data_root), updates), rule="all")
    prepare(setting, own.data_root, point.size, pairs, updates)
    return setting


def summary(rows: list[Row]) -> str:
    """Returns the table."""
    lines = []
    for name, point in POINTS:
        trl, ours = (point.at(side) for side in DEFAULTS)
        figures = [
            f"{median(values(rows, side, figure)):.{digits}f}"
            for figure, digits in (("seconds_per_update", 2), ("memory", 0))
            for side in (trl, ours)
        ]
        faster = ratio(rows, trl, ours, "seconds_per_update")
        lines.append((name.replace("_", " "), getattr(point, name), point.pairs, *figures, faster))
    header = ("what grows", "to", "pairs", "TRL, s", "fdpo, s", "TRL, MiB", "fdpo, MiB", "faster")
    return table(header, lines)


def main() -> None:
    (own,) = arguments.parse((Arguments,), program="cost_growth.py")
    with tempfile.TemporaryDirectory() as name:
        points = dict.fromkeys(point for _, point in POINTS)
        with arguments.usage_errors("cost_growth.py"):
            settings = {
                point: prepared(point, Path(name) / str(number), own)
                for number, point in enumerate(points)
            }
        places = {
            point.at(side): (setting, side)
            for point, setting in settings.items()
            for side in DEFAULTS
        }

        def measure(place: str, number: int) -> Row:
            return alone(timed, *places[place], number)

        record = {"arguments": arguments.resolved(own)}
        rows = alternate(list(places), own.rounds, measure, own.output, record)
    print(summary(rows))


if __name__ == "__main__":
    main()
