"""Profile of a training step: the share of each operation, by torch's profiler.

    python -m benchmarks.profiles --what text --side trl --data_root DIR
    python -m benchmarks.profiles --what text --side fdpo --data_root DIR
    python -m benchmarks.profiles --what images --side "fdpo, repeated" --data_root DIR

The steps and their sides are those of ``benchmarks.training`` (models of 2.6 M parameters on
groups) and of ``benchmarks.diffusion``. Shares are of the processor's time in an operation itself,
without the operations that it calls.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from torch.profiler import ProfilerActivity, profile

from benchmarks import diffusion
from benchmarks.comparison import markdown_table
from benchmarks.trainers import BATCH, SIDES, Setting, load_pairs, make_trainer, prepare
from fdpo.cli import arguments
from fdpo.runs.distributed import keep_freed_memory

PROGRAM = "benchmarks.profiles"


@dataclass
class Arguments:
    """Profile."""

    what: Literal["text", "images"] = field(default="text", metadata={"help": "text or images"})
    side: str = field(default="fdpo", metadata={"help": "a side of the table of speed"})
    data: Literal["groups", "dialogues", "pairs"] = field(
        default="groups", metadata={"help": "text: data set to train on"}
    )
    data_root: str = field(default="data", metadata={"help": "folder of the data, or of MNIST's"})
    size: Literal["2.6M", "25M", "124M"] = field(default="2.6M", metadata={"help": "text: model"})
    updates: int = field(default=3, metadata={"help": "updates"})
    rows: int = field(default=12, metadata={"help": "operations to show"})

    def __post_init__(self) -> None:
        sides = SIDES if self.what == "text" else diffusion.SIDES
        if self.side not in sides:
            raise ValueError(f"unknown --side {self.side!r}; choose from {'; '.join(sides)}")


def text_training(args: Arguments, folder: Path) -> Callable[[], Any]:
    """Prepares training on text and returns the function that trains."""
    setting = Setting(folder, BATCH[args.data])
    pairs = load_pairs(args.data, args.data_root)
    prepare(setting, args.data_root, args.size, pairs, args.updates)
    return make_trainer(setting, args.side, folder / "cache").train


def image_training(args: Arguments, folder: Path) -> Callable[[], Any]:
    """Prepares training on images and returns the function that trains."""
    options = diffusion.Arguments(data_root=args.data_root, updates=args.updates)
    sides = diffusion.Sides(options, folder)
    if args.side != diffusion.PLAIN:
        keep_freed_memory()
    if args.side in diffusion.PUBLISHED:
        return lambda: sides.plain().train(sides.batches(args.updates))
    if args.side == diffusion.REPEATED:
        sides.trainer("cache", args.updates).train()
    return sides.trainer("cache", args.updates).train


def main() -> None:
    (args,) = arguments.parse((Arguments,), program=PROGRAM)
    with tempfile.TemporaryDirectory() as folder:
        with arguments.usage_errors(PROGRAM):
            prepare_training = text_training if args.what == "text" else image_training
            train = prepare_training(args, Path(folder))
        with profile(activities=[ProfilerActivity.CPU]) as profiled:
            train()
    events = sorted(profiled.key_averages(), key=lambda event: -event.self_cpu_time_total)
    total = sum(event.self_cpu_time_total for event in events)
    lines = [
        (event.key, f"{event.self_cpu_time_total / total:.1%}", event.count)
        for event in events[: args.rows]
    ]
    print(f"{total / 1e6:.1f} s in {args.updates} updates")
    print(markdown_table(("operation", "of the time", "calls"), lines))


if __name__ == "__main__":
    main()
