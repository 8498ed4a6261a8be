"""Resumable trainers of transformers: whole checkpoints, safe reading, no step beyond the last."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

from transformers import Trainer, TrainerCallback, TrainerState

from fdpo.llm.callbacks import SumLosses
from fdpo.runs.checkpoints import STATE, reading, rotate, whole_checkpoint, without_code
from fdpo.runs.notes import note, reason
from fdpo.runs.resume import newest_checkpoint, require_whole

Callback = TypeVar("Callback", bound=TrainerCallback)


class ResumableTrainer(Trainer):
    """A ``Trainer`` whose checkpoints are whole and read without running code.

    A checkpoint is written to a hidden folder and renamed (:mod:`fdpo.runs.checkpoints`);
    ``save_total_limit`` counts whole ones only (:func:`fdpo.runs.checkpoints.rotate`). A run that
    was killed after its last step resumes to the end without another one.
    """

    saving_in: Path | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.add_callback(SumLosses())

    def train(
        self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any
    ) -> Any:
        """Trains, or resumes from a whole checkpoint: a path, or ``True`` for the newest one.

        Raises:
            ValueError: If the checkpoint is damaged, or there is none.
            CheckpointError: If a file of it cannot be read.
        """
        checkpoint: Any = resume_from_checkpoint or None
        if checkpoint is True:
            checkpoint = newest_checkpoint(self.args.output_dir)
            if checkpoint is None:
                raise ValueError(f"{self.args.output_dir} holds no checkpoint")
        if checkpoint is not None:
            require_whole(Path(checkpoint))
            with reading(checkpoint):
                TrainerState.load_from_json(str(Path(checkpoint) / STATE))
        return super().train(checkpoint, *args, **kwargs)

    def get_callback(self, kind: type[Callback]) -> Callback:
        """Returns the callback of a class; a resumed run may have another object than before."""
        return next(one for one in self.callback_handler.callbacks if isinstance(one, kind))

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Logs metrics; the mean loss at the end is that of all steps of the run."""
        if "train_loss" in logs and self.state.global_step:
            total = self.get_callback(SumLosses).earlier + self._total_loss_scalar
            logs["train_loss"] = total / self.state.global_step
        super().log(logs, *args, **kwargs)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        folder, step = Path(self._get_output_dir(trial)), self.state.global_step
        writes, wait = self.args.should_save, self.accelerator.wait_for_everyone
        losses = self.get_callback(SumLosses)
        losses.sum = losses.earlier + self._total_loss_scalar + self._tr_loss.item()
        with whole_checkpoint(folder, step, writes=writes, wait=wait) as hidden:
            self.saving_in = hidden.parent
            try:
                super()._save_checkpoint(model, trial)
            finally:
                self.saving_in = None
            self._name_best(folder)
            if writes:
                self.state.save_to_json(str(hidden / STATE))
        place = folder / f"checkpoint-{step}"
        if writes:
            best = Path(self.state.best_model_checkpoint or place).name
            rotate(folder, self.args.save_total_limit, place, keep=[best])
        if self.args.push_to_hub:
            self._push_from_checkpoint(str(place))

    def _get_output_dir(self, trial: Any) -> str:
        """Returns the folder of checkpoints; while one is saved, a hidden folder of its own."""
        return super()._get_output_dir(trial) if self.saving_in is None else str(self.saving_in)

    def _name_best(self, folder: Path) -> None:
        """Names the best checkpoint by its place, not by the hidden folder."""
        step = self.state.best_global_step
        place = folder / f"checkpoint-{step}"
        if step and (step == self.state.global_step or place.is_dir()):
            self.state.best_model_checkpoint = str(place)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Uploads a checkpoint once it is in its place; a failure does not end the run."""
        if self.saving_in is not None:
            return
        try:
            super()._push_from_checkpoint(checkpoint_folder)
        except Exception as error:
            note(f"{checkpoint_folder} is not uploaded: {reason(error)}")

    def _run_epoch(self, **kwargs: Any) -> None:
        """Trains for an epoch, unless the run resumes from its last step."""
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
        else:
            super()._run_epoch(**kwargs)

    def _prepare_for_training(
        self, max_steps: int, train_dataloader: Any, resume_from_checkpoint: str | None
    ) -> Any:
        with without_code():  # DeepSpeed's states are read here
            return super()._prepare_for_training(
                max_steps, train_dataloader, resume_from_checkpoint
            )

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        with reading(resume_from_checkpoint):
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        with reading(str(checkpoint)):
            super()._load_optimizer_and_scheduler(checkpoint)

    def _load_scaler(self, checkpoint: str | None) -> None:
        with reading(str(checkpoint)):
            super()._load_scaler(checkpoint)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        with reading(str(checkpoint)):
            super()._load_rng_state(checkpoint)

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """Warns of weights that a checkpoint lacks, unless others share their values."""
        tied = set(getattr(self.model, "all_tied_weights_keys", None) or ())
        if load_result.unexpected_keys or not set(load_result.missing_keys) <= tied:
            super()._issue_warnings_after_load(load_result)

    def _load_best_model(self) -> None:
        with reading(str(self.state.best_model_checkpoint)):
            super()._load_best_model()
