"""Checkpoints of image training: Accelerate's state, the moving average, recent log-ratios."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils.other import load
from diffusers.training_utils import EMAModel
from safetensors.torch import load_file, save_file
from torch import Tensor

from fdpo import runs
from fdpo.diffusion.metrics import RecentLogRatios
from fdpo.runs.checkpoints import STATE, CheckpointError, reading, rotate, whole_checkpoint

PLAIN = ("step", "seconds", "log")
AVERAGE, RECENT = "average", "recent"
TENSORS = "trainer_state.safetensors"
"""The file of the tensors of the moving average and of the recent log-ratios."""
FORMER_AVERAGE = "custom_checkpoint_0.pkl"
"""The file of the moving average in version 0.1."""


def save_checkpoint(
    accelerator: Accelerator,
    folder: Path,
    state: Mapping[str, Any],
    ema: EMAModel | None,
    recent: RecentLogRatios,
    limit: int,
) -> None:
    """Saves a checkpoint; all processes call it.

    Arguments:
        accelerator: The accelerator, with everything that it prepared.
        folder: The run folder.
        state: The values of :data:`PLAIN`.
        ema: The moving average.
        recent: The recent log-ratios, the same in all processes.
        limit: The number of checkpoints to keep (:func:`fdpo.runs.checkpoints.rotate`).
    """
    is_main, wait = accelerator.is_main_process, accelerator.wait_for_everyone
    with whole_checkpoint(folder, state["step"], writes=is_main, wait=wait) as checkpoint:
        accelerator.save_state(str(checkpoint))
        if is_main:
            tensors = _numbered(RECENT, recent.recent)
            if ema is not None:
                average = ema.state_dict()
                tensors |= _numbered(AVERAGE, average.pop("shadow_params"))
                state = {**state, AVERAGE: average}
            save_file(tensors, checkpoint / TENSORS)
            runs.write_json(checkpoint / STATE, state)
    if is_main:
        rotate(folder, limit, folder / f"checkpoint-{state['step']}")


def load_checkpoint(
    accelerator: Accelerator, checkpoint: Path, ema: EMAModel | None, recent: RecentLogRatios
) -> dict[str, Any]:
    """Loads a checkpoint, and returns the values of :data:`PLAIN`.

    Raises:
        CheckpointError: If a file of it cannot be read.
    """
    with reading(checkpoint):
        # Accelerate keeps quiet about random states that it cannot read.
        random_states = checkpoint / f"random_states_{accelerator.process_index}.pkl"
        if random_states.exists():
            load(random_states)
        state = runs.read_json(checkpoint / STATE)
        if (checkpoint / TENSORS).exists():
            accelerator.load_state(str(checkpoint))
            tensors = load_file(checkpoint / TENSORS)
        else:
            average, tensors = _load_former(accelerator, checkpoint)
            state |= average
        _load_average(ema, state, tensors)
        recent.recent.extend(_unnumbered(RECENT, tensors))
        return {name: state[name] for name in PLAIN}


def _numbered(name: str, values: Iterable[Tensor]) -> dict[str, Tensor]:
    return {f"{name}.{i}": value.detach().cpu().contiguous() for i, value in enumerate(values)}


def _unnumbered(name: str, tensors: Mapping[str, Tensor]) -> list[Tensor]:
    number = sum(key.startswith(f"{name}.") for key in tensors)
    return [tensors[f"{name}.{i}"] for i in range(number)]


def _load_average(
    ema: EMAModel | None, state: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> None:
    if (ema is not None) != (AVERAGE in state):
        has = "a" if AVERAGE in state else "no"
        raise CheckpointError(f"the checkpoint has {has} moving average, unlike --use_ema")
    if ema is not None:
        device = ema.shadow_params[0].device
        ema.load_state_dict({**state[AVERAGE], "shadow_params": _unnumbered(AVERAGE, tensors)})
        ema.to(device)


class _FormerAverage:
    """The moving average of a checkpoint of version 0.1, as Accelerate loads it."""

    values: dict[str, Any]

    def state_dict(self) -> dict[str, Any]:
        return self.values

    def load_state_dict(self, values: dict[str, Any]) -> None:
        self.values = values


def _load_former(
    accelerator: Accelerator, checkpoint: Path
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Loads a checkpoint of version 0.1, in which Accelerate saved the moving average."""
    if not (checkpoint / FORMER_AVERAGE).exists():
        accelerator.load_state(str(checkpoint))
        return {}, {}
    average = _FormerAverage()
    accelerator.register_for_checkpointing(average)
    try:
        accelerator.load_state(str(checkpoint))
    finally:
        accelerator._custom_objects.remove(average)
    tensors = _numbered(AVERAGE, average.values.pop("shadow_params"))
    return {AVERAGE: average.values}, tensors
