"""Trains an image model on preference pairs with any f-divergence, and shows what it did.

    python diffusion/train.py --loss jsd

With no arguments the embedded MNIST model learns to draw more of the target digit, from pairs of
its own samples that the embedded classifier ranks; they are made on first use and kept.
"""

from __future__ import annotations

import copy
import sys
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from fdpo import runs
from fdpo.cli import arguments
from fdpo.diffusion import DiffusionConfig, DiffusionTrainer, Flow, ImagePairs, NoiseProcess
from fdpo.diffusion.evaluate import report
from fdpo.diffusion.images import read_pair_folder
from fdpo.diffusion.models import image_shape, load, save
from fdpo.diffusion.noise import STEPS
from fdpo.losses.config import RESETS, with_default
from fdpo.runs.distributed import keep_freed_memory, run_first
from fdpo.tasks import COMMANDS, PRETRAINED
from fdpo.tasks.mnist import load_classifier, load_real_features, require_size
from fdpo.tasks.mnist_data import load_mnist, load_small_digits, target_pairs
from fdpo.tasks.mnist_feedback import require_digit
from fdpo.tasks.mnist_report import compare, table

CLASSIFIER = PRETRAINED / "mnist-classifier"
PAIRS = 10_000  # of random winners and losers, where pictures are given and not pairs


@dataclass
class DataArguments:
    """Model, pairs and evaluation."""

    model: str = field(
        default=str(PRETRAINED / "mnist-ddpm"),
        metadata={"help": "policy and reference: folder or hub id of an unconditional model"},
    )
    flow_times: Literal["uniform", "logit_normal"] = field(
        default="uniform", metadata={"help": "how training of a flow model draws t"}
    )
    data: str = field(
        default="feedback",
        metadata={"help": "feedback: the model's own samples, ranked; mnist; digits; a folder"},
    )
    data_root: str | None = field(
        default=None, metadata={"help": "--data mnist: the folder of its files"}
    )
    target: int = field(default=2, metadata={"help": "the digit to draw more of"})
    classifier: str = field(default=str(CLASSIFIER), metadata={"help": "of digits: folder"})
    eval_samples: int = field(
        default=512, metadata={"help": "samples to compare before and after; 0: none"}
    )
    sampling_steps: int = field(
        default=STEPS, metadata={"help": "evaluations of the model a picture"}
    )

    def __post_init__(self) -> None:
        require_digit(self.target)
        if self.data_root is not None and self.data != "mnist":
            raise ValueError("--data_root has no effect without --data mnist")
        if self.data_root is None and self.data == "mnist":
            raise ValueError("--data mnist needs --data_root DIR, the folder of its files")
        if self.eval_samples < 0 or self.sampling_steps < 1:
            raise ValueError("--eval_samples must be at least 0, --sampling_steps at least 1")


changed = partial(with_default, DiffusionConfig)


@dataclass
class TrainConfig(DiffusionConfig):
    """f-DPO for images."""

    # What keeps an unconditional model in distribution while most of its samples change.
    method: Literal["dpo", "dpo_sft", "sft", "negative_sft"] = changed("method", "dpo_sft")
    loser_gradient: float = changed("loser_gradient", 0.2)
    max_train_steps: int = changed("max_train_steps", 160)
    learning_rate: float = changed("learning_rate", 5e-4)
    lr_scheduler: str = changed("lr_scheduler", "cosine")
    use_ema: bool = changed("use_ema", True)
    ema_decay: float = changed("ema_decay", 0.95)

    def __post_init__(self) -> None:
        if self.output_dir is None:
            name = self.loss if self.alpha is None else f"{self.loss}-{self.alpha:g}"
            self.output_dir = "runs/diffusion-" + runs.file_name(name)
        super().__post_init__()


def feedback_folder(own: DataArguments) -> Path:
    """Returns the folder of the model's own ranked samples; dataset/main.py makes it."""
    folder = Path(f"runs/dataset-{Path(own.model).name}-{own.target}")
    command = [sys.executable, str(COMMANDS / "dataset/main.py"), "--modality", "image"]
    command += ["--model", own.model, "--target", str(own.target), "--classifier", own.classifier]
    run_first([*command, "--output_dir", str(folder)], target=folder / "README.md")
    return folder


def load_pairs(own: DataArguments, model: nn.Module, seed: int) -> ImagePairs:
    """Loads the pairs, or makes them on first use."""
    shape = image_shape(model)
    if own.data == "feedback":
        return read_pair_folder(feedback_folder(own), shape)
    if own.data not in ("mnist", "digits"):
        return read_pair_folder(own.data, shape)
    pictures, labels = (
        load_mnist(str(own.data_root)) if own.data == "mnist" else load_small_digits(shape)
    )
    if pictures.shape[1:] != shape:
        found, wanted = (" x ".join(map(str, size)) for size in (pictures.shape[1:], shape))
        raise ValueError(f"--data {own.data} has pictures of {found}, --model {own.model} {wanted}")
    generator = torch.Generator().manual_seed(seed)
    return target_pairs(pictures, labels, own.target, PAIRS, generator)


def validation(own: DataArguments, process: NoiseProcess, model: nn.Module) -> dict[str, float]:
    """Judges samples of a model in training."""
    found = report(
        model, process, load_classifier(own.classifier, next(model.parameters()).device),
        own.eval_samples, steps=own.sampling_steps, progress="samples",
    )  # fmt: skip
    variety = found.variety(own.target, load_real_features(own.classifier, own.target))
    return {**found.metrics(own.target), "variety": variety}


def main() -> None:
    keep_freed_memory()
    own, training = arguments.parse(
        (DataArguments, TrainConfig),
        program="train.py",
        presets="diffusion",
        description=(__doc__ or "").split("\n")[0],
        resets=RESETS,
    )
    with arguments.usage_errors("train.py"):
        resume = training.resume_from_checkpoint
        if training.validation_steps and not own.eval_samples:
            raise ValueError("--validation_steps has no effect with --eval_samples 0")
        checkpoint = runs.checkpoint(training.output_dir, resume)
        options = arguments.resolved(own, training)
        runs.require_free(training.output_dir, options, resume=resume)
        model, process = load(own.model)
        if isinstance(process, Flow):
            process = replace(process, times=own.flow_times)
        elif own.flow_times != "uniform":
            raise ValueError(f"--flow_times has no effect: {own.model} is no flow model")
        load_classifier(own.classifier)
        require_size(image_shape(model), own.classifier)
        pairs = load_pairs(own, model, training.seed)
        base = copy.deepcopy(model)
        trainer = DiffusionTrainer(model, process, pairs, training)
        folder = runs.prepare(training.output_dir, options, resume=resume)
    print(f"{len(pairs):,} pairs of {len(pairs.pictures):,} pictures")
    with runs.recording_nonfinite(folder):
        trainer.train(checkpoint, partial(validation, own, process))
    if trainer.interrupts.stopped:
        print(f"stopped at step {trainer.step}; --resume_from_checkpoint last goes on")
        sys.exit(130)
    if trainer.accelerator.is_main_process:
        metrics = {"steps": trainer.step, "train_seconds": trainer.seconds, **trainer.quantiles()}
        if own.eval_samples:
            found = compare(
                trainer.finished(), base, process, folder, classifier=own.classifier,
                target=own.target, samples=own.eval_samples, steps=own.sampling_steps,
                reference_cache=training.reference_cache,
            )  # fmt: skip
            metrics |= found
            print(table(found))
        save(trainer.merged(), process, folder)
        runs.write_json(folder / runs.METRICS, metrics)
        print(f"run folder: {folder}")
    trainer.accelerator.end_training()


if __name__ == "__main__":
    main()
