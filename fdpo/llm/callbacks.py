"""Callbacks of the trainers: a brief log line, Ctrl-C that loses nothing, a clock."""

from __future__ import annotations

import time
from typing import Any

from transformers import ProgressCallback, TrainerCallback, TrainerControl, TrainerState
from transformers import TrainingArguments as Arguments
from transformers.trainer_callback import ExportableState

from fdpo.runs.interrupts import Interrupts

SHOWN = {
    "loss": "loss",
    "eval_loss": "held-out loss",
    "rewards/margins": "margin",
    "rewards/accuracies": "accuracy",
    "log_ratios/chosen": "log-ratio chosen",
    "log_ratios/rejected": "rejected",
    "tail_fraction": "in tail",
}


class BriefProgress(ProgressCallback):
    """A progress bar with the figures that tell how a run goes; the log holds all of them."""

    def on_log(
        self,
        args: Arguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        logs = logs or {}
        parts = [
            f"{label} {float(logs[name]):.3g}" for name, label in SHOWN.items() if name in logs
        ]
        if state.is_world_process_zero and self.training_bar is not None and parts:
            self.training_bar.write(f"step {state.global_step}: " + ", ".join(parts))


class StopOnInterrupt(TrainerCallback):
    """Ends a run after the step at hand, with a checkpoint, at Ctrl-C or SIGTERM."""

    def __init__(self) -> None:
        self.interrupts = Interrupts()

    @property
    def stopped(self) -> bool:
        return self.interrupts.stopped

    def on_train_begin(
        self, args: Arguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.interrupts.watch()

    def on_step_end(
        self, args: Arguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.interrupts.any_process_stopped():
            control.should_save = control.should_training_stop = True

    def on_train_end(
        self, args: Arguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.interrupts.release()


class Seconds(TrainerCallback, ExportableState):
    """Counts the seconds that a run trains, with those before it was interrupted."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def state(self) -> dict[str, Any]:
        """Returns what a checkpoint keeps."""
        return {"args": {}, "attributes": {"seconds": self.seconds}}

    def on_train_begin(
        self, args: Arguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        kept = state.stateful_callbacks.setdefault(type(self).__name__, self.state())
        self.seconds = kept["attributes"]["seconds"]
        self.begun = time.monotonic() - self.seconds

    def on_step_end(
        self, args: Arguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.seconds = time.monotonic() - self.begun
