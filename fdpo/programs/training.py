"""The life of a run of transformers' ``Trainer``, for sft.py and train_scorer.py."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from transformers import Trainer

from fdpo import runs
from fdpo.cli.program import Run
from fdpo.llm.callbacks import StopOnInterrupt, use_brief_progress
from fdpo.runs.distributed import is_main_process
from fdpo.tasks.imdb import save_in_16_bit


def train_to_end(
    run: Run, trainer: Trainer, folder: str | Path, measure: Callable[[], Mapping[str, float]]
) -> None:
    """Trains a model with its tokenizer, saves and measures it, and finishes its run.

    Arguments:
        run: The run, started.
        trainer: The trainer.
        folder: The folder to save the model to.
        measure: Measures the saved model; called in the first process only.
    """
    trainer.add_callback(interrupt := StopOnInterrupt())
    use_brief_progress(trainer)
    trainer.train(resume_from_checkpoint=run.checkpoint)
    run.exit_if(interrupt.stopped, trainer.state.global_step)
    if not is_main_process():
        return
    save_in_16_bit(trainer.model, trainer.processing_class, folder)
    metrics: Mapping[str, float] = {}
    with run.reporting("metrics"):
        metrics = measure()
        print(", ".join(f"{name} {value:.5g}" for name, value in metrics.items()))
    runs.write_jsonl(run.folder / runs.LOG, trainer.state.log_history)
    run.finish(metrics)
