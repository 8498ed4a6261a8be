"""Checkpoints to damage, and harmless code that leaves a mark where it runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from fdpo.runs.checkpoints import whole_checkpoint

FILES = ("model.safetensors", "optimizer.pt", "rng_state.pth", "scheduler.pt", "trainer_state.json")


def make_checkpoint(folder: Path, step: int, *, manifest: bool = True) -> Path:
    """Makes a checkpoint of small files; without a manifest as older versions did."""
    with whole_checkpoint(folder, step) as checkpoint:
        for name in FILES:
            (checkpoint / name).write_text(f"the file {name} of step {step}")
    place = folder / f"checkpoint-{step}"
    if not manifest:
        (place / "manifest.json").unlink()
    return place


def cut(path: Path) -> None:
    """Cuts a file in half."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    """Empties a file."""
    path.write_bytes(b"")


DAMAGE: dict[str, Callable[[Path], None]] = {"cut": cut, "empty": empty, "missing": Path.unlink}


class Payload:
    """An object whose unpickling creates a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


def plant(path: Path, mark: Path) -> None:
    """Replaces a file by code that creates ``mark`` where it is unpickled."""
    with path.open("wb") as file:  # torch itself refuses some names
        torch.save({"state": Payload(mark)}, file)


def digest(folder: Path) -> dict[str, bytes]:
    """Returns the contents of all files of a folder, hidden ones too."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}
