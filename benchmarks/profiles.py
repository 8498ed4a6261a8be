"""Where the time of training goes: the share of each operation, by torch's profiler.

    python benchmarks/profiles.py --what text --side trl --data_root DIR
    python benchmarks/profiles.py --what text --side fdpo --data_root DIR
    python benchmarks/profiles.py --what images --side "fdpo, repeated" --data_root DIR

The steps are those of ``training_speed.py`` (models of 2.6 M parameters on groups) and of
``diffusion_speed.py``, whose sides these are. Shares are of the processor's own time in an
operation, without what it calls.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import diffusion_speed
from side_by_side import table
from text_training import SIDES, Setting, prepare, trainer_of
from torch.profiler import ProfilerActivity, profile
from training_speed import BATCH, load_pairs

from fdpo.cli import arguments
from fdpo.runs.distributed import keep_freed_memory


@dataclass
class Arguments:
    """Profile."""

    what: Literal["text", "images"] = field(default="text", metadata={"help": "text or images"})
    side: str = field(default="fdpo", metadata={"help": "whose step, as the tables of speed say"})
    data: Literal["groups", "dialogues", "pairs"] = field(
        default="groups", metadata={"help": "text: what is trained on"}
    )
    data_root: str = field(default="data", metadata={"help": "folder of the data, or of MNIST's"})
    size: Literal["2.6M", "25M", "124M"] = field(default="2.6M", metadata={"help": "text: model"})
    updates: int = field(default=3, metadata={"help": "updates"})
    rows: int = field(default=12, metadata={"help": "operations to show"})

    def __post_init__(self) -> None:
        sides = SIDES if self.what == "text" else diffusion_speed.SIDES
        if self.side not in sides:
            raise ValueError(f"--side {self.side}: there is {'; '.join(sides)}")


def text(own: Arguments, folder: Path) -> Callable[[], Any]:
    """Prepares training on text."""
    setting = Setting(folder, BATCH[own.data])
    prepare(setting, own.data_root, own.size, load_pairs(own.data, own.data_root), own.updates)
    return trainer_of(setting, own.side, folder / "cache").train


def images(own: Arguments, folder: Path) -> Callable[[], Any]:
    """Prepares training on images."""
    given = diffusion_speed.Arguments(data_root=own.data_root, updates=own.updates)
    sides = diffusion_speed.Sides(given, folder)
    if own.side != diffusion_speed.PLAIN:
        keep_freed_memory()
    if own.side in diffusion_speed.PUBLISHED:
        return lambda: sides.plain().train(sides.batches(own.updates))
    if own.side == diffusion_speed.REPEATED:
        sides.trainer("cache", own.updates).train()
    return sides.trainer("cache", own.updates).train


def main() -> None:
    (own,) = arguments.parse((Arguments,), program="profiles.py")
    with tempfile.TemporaryDirectory() as name:
        with arguments.usage_errors("profiles.py"):
            train = (text if own.what == "text" else images)(own, Path(name))
        with profile(activities=[ProfilerActivity.CPU]) as found:
            train()
    events = sorted(found.key_averages(), key=lambda event: -event.self_cpu_time_total)
    total = sum(event.self_cpu_time_total for event in events)
    lines = [
        (event.key, f"{event.self_cpu_time_total / total:.1%}", event.count)
        for event in events[: own.rows]
    ]
    print(f"{total / 1e6:.1f} s in {own.updates} updates")
    print(table(("operation", "of the time", "calls"), lines))


if __name__ == "__main__":
    main()
