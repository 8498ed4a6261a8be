"""Checkpoints of image training: Accelerate's state with the step, the seconds and the log."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from fdpo import runs

STATE = "trainer_state.json"


def save_checkpoint(
    accelerator: Accelerator, folder: Path, state: dict[str, Any], limit: int
) -> None:
    """Saves a checkpoint; all processes call it.

    Arguments:
        accelerator: The accelerator, with everything that it prepared or registered.
        folder: The run folder.
        state: The ``step``, the ``seconds`` and the ``log``, which are written last.
        limit: The number of checkpoints to keep; the oldest are removed.
    """
    checkpoint = folder / f"checkpoint-{state['step']}"
    accelerator.save_state(str(checkpoint))
    accelerator.wait_for_everyone()
    if not accelerator.is_main_process:
        return
    runs.write_json(checkpoint / STATE, state)
    checkpoints = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    for old in checkpoints[:-limit]:
        shutil.rmtree(old)


def load_checkpoint(accelerator: Accelerator, checkpoint: Path) -> dict[str, Any]:
    """Loads a checkpoint and returns its ``step``, ``seconds`` and ``log``."""
    accelerator.load_state(str(checkpoint))
    return runs.read_json(checkpoint / STATE)
