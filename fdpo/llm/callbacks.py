"""Callbacks of the trainers: progress, interrupts, time and tokens, finite gradients."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import torch
from datasets import Dataset
from transformers import ProgressCallback, TrainerCallback, TrainerControl, TrainerState
from transformers import TrainingArguments as Arguments
from transformers.trainer_callback import ExportableState

from fdpo.llm.data import pair_name
from fdpo.runs.interrupts import Interrupts

if TYPE_CHECKING:
    from transformers import Trainer

    from fdpo.llm.reference import Reference
    from fdpo.llm.trainer import FDPOTrainer

LABELS = {
    "loss": "loss",
    "eval_loss": "held-out loss",
    "rewards/margins": "margin",
    "rewards/accuracies": "accuracy",
    "log_ratios/chosen": "log-ratio chosen",
    "log_ratios/rejected": "rejected",
    "tail_fraction": "in tail",
}
"""The metrics that :class:`BriefProgress` prints, with their labels."""


class BriefProgress(ProgressCallback):
    """A progress bar with a line of metrics for each log; the log holds all metrics."""

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
            f"{label} {float(logs[name]):.3g}" for name, label in LABELS.items() if name in logs
        ]
        if state.is_world_process_zero and self.training_bar is not None and parts:
            self.training_bar.write(f"step {state.global_step}: " + ", ".join(parts))


def use_brief_progress(trainer: Trainer) -> None:
    """Replaces the progress bar of a trainer, if it shows one, by :class:`BriefProgress`."""
    if trainer.pop_callback(ProgressCallback) is not None:
        trainer.add_callback(BriefProgress())


class StopOnInterrupt(TrainerCallback):
    """Ends a run after the current step, with a checkpoint, at Ctrl-C, SIGTERM or SIGHUP."""

    def __init__(self) -> None:
        self.interrupts = Interrupts()

    @property
    def stopped(self) -> bool:
        """True after a signal ended the run."""
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


class TrainingClock(TrainerCallback, ExportableState):
    """The seconds that a run has trained, with those before it was interrupted."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def state(self) -> dict[str, Any]:
        """Returns the part of a checkpoint."""
        return {"args": {}, "attributes": {"seconds": self.seconds}}

    def on_train_begin(
        self, args: Arguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        saved = state.stateful_callbacks
        previous = saved.pop("Seconds", self.state())  # its name in version 0.1
        self.seconds = saved.setdefault(type(self).__name__, previous)["attributes"]["seconds"]
        self.begun = time.monotonic() - self.seconds

    def on_step_end(
        self, args: Arguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.seconds = time.monotonic() - self.begun


class CountTokens(TrainerCallback, ExportableState):
    """The tokens that a run has trained on, with those before it was interrupted."""

    def __init__(self) -> None:
        self.tokens = 0

    def state(self) -> dict[str, Any]:
        """Returns the part of a checkpoint."""
        return {"args": {}, "attributes": {"tokens": self.tokens}}

    def on_train_begin(
        self, args: Arguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        saved = state.stateful_callbacks.setdefault(type(self).__name__, self.state())
        self.tokens = saved["attributes"]["tokens"]


class SumLosses(TrainerCallback, ExportableState):
    """The sum of the losses before a run was interrupted, and at its checkpoint.

    transformers' ``train_loss`` is the mean over the steps since then.
    """

    def __init__(self) -> None:
        self.earlier = self.sum = 0.0

    def state(self) -> dict[str, Any]:
        """Returns the part of a checkpoint."""
        return {"args": {}, "attributes": {"sum": self.sum}}

    def on_train_begin(
        self, args: Arguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        saved = state.stateful_callbacks.setdefault(type(self).__name__, self.state())
        self.earlier = self.sum = saved["attributes"]["sum"]


class FiniteGradients(TrainerCallback):
    """A check that stops a run at a gradient that is not finite.

    With fp16 there is none: the loss scaler skips such steps and lowers its scale.
    """

    def __init__(self, trainer: FDPOTrainer) -> None:
        self.trainer = trainer

    def on_step_begin(
        self, args: Arguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.trainer.recent_pairs.clear()

    def on_pre_optimizer_step(
        self, args: Arguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if not args.fp16:
            self.check()

    def check(self) -> None:
        """Raises ``FloatingPointError``, naming the pair, if a gradient is not finite."""
        if self._finite():
            return
        raise FloatingPointError(
            f"step {self.trainer.state.global_step + 1}: the gradient of {self._culprit()} is not "
            "finite; the weights are those of the step before"
        )

    def _finite(self) -> bool:
        gradients = [p.grad for p in self.trainer.model.parameters() if p.grad is not None]
        return all(bool(torch.isfinite(gradient).all()) for gradient in gradients)

    def _culprit(self) -> str:
        """Names the first pair of the update whose gradient, computed alone, is not finite."""
        trainer = self.trainer
        is_stream = not isinstance(trainer.train_dataset, Dataset)
        if is_stream or trainer.accelerator.num_processes > 1:  # whose passes wait for one another
            return "a pair of the last update"
        trainer.model.eval()  # neither logged nor remembered as a training step
        try:
            for index in [i for indices in trainer.recent_pairs for i in indices.tolist()]:
                row = trainer.train_dataset[index]
                batch = trainer._prepare_inputs(trainer.data_collator([row]))
                trainer.model.zero_grad()
                trainer.compute_loss(trainer.model, batch).backward()
                if not self._finite():
                    return pair_name(trainer.train_dataset, index)
        finally:
            trainer.model.train()
        return "the last update"


class CountEpochs(TrainerCallback):
    """A note of each epoch's beginning, within which a pair counts once."""

    def __init__(self, trainer: FDPOTrainer) -> None:
        self.trainer = trainer

    def on_epoch_begin(
        self, args: Arguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.trainer.counted.start("train")


class SaveReferenceCache(TrainerCallback):
    """A writer of the reference's cache, before each checkpoint and after each evaluation.

    A run that is killed after a checkpoint then finds the numbers that it was trained with.
    """

    def __init__(self, reference: Reference) -> None:
        self.reference, self.resumed = reference, False

    def on_train_begin(
        self, args: Arguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.resumed = state.global_step > 0

    def on_step_end(
        self, args: Arguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if control.should_save:
            self.reference.save()

    on_epoch_end = on_step_end

    def on_save(
        self, args: Arguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.reference.save()

    on_evaluate = on_save

    def on_train_end(
        self, args: Arguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.reference.save()
        self.reference.report(str(args.output_dir), resumed=self.resumed)
