"""Trains an image model on preference pairs with any f-divergence.

    python diffusion/train.py --loss jsd

By default the embedded MNIST model learns to generate more of a target digit, from pairs of its own
samples that the embedded classifier ranks. The first run creates the pairs.
"""

from __future__ import annotations

import copy
import sys
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import nn

from fdpo import runs
from fdpo.cli import arguments
from fdpo.cli.program import Run
from fdpo.cli.quiet import quiet_libraries
from fdpo.cli.values import AT_LEAST_0, Range
from fdpo.diffusion.config import DiffusionConfig
from fdpo.diffusion.dataset import ImagePairs
from fdpo.diffusion.images import Shape, read_pair_folder
from fdpo.diffusion.noise import STEPS, Flow, NoiseProcess
from fdpo.losses.config import RESETS, with_default
from fdpo.runs.distributed import keep_freed_memory, run_first
from fdpo.tasks import COMMANDS
from fdpo.tasks.mnist import (
    CLASSIFIER,
    MODEL,
    load_mnist,
    load_small_digits,
    target_pairs,
)

if TYPE_CHECKING:
    from fdpo.diffusion.trainer import DiffusionTrainer

PAIRS = 10_000
"""The number of random pairs of a data set that holds images without preferences."""


@dataclass
class DataArguments:
    """Model, pairs and evaluation."""

    model: str = field(
        default=str(MODEL),
        metadata={"help": "policy and reference: folder or hub id of an unconditional model"},
    )
    flow_times: Literal["uniform", "logit_normal"] = field(
        default="uniform", metadata={"help": "distribution of t in training a flow model"}
    )
    data: str = field(
        default="feedback",
        metadata={"help": "feedback: the model's own samples, ranked; mnist; digits; a folder"},
    )
    data_root: str | None = field(
        default=None, metadata={"help": "--data mnist: the folder of its files"}
    )
    target: int = field(default=2, metadata={"help": "the digit to generate more often"})
    classifier: str = field(default=str(CLASSIFIER), metadata={"help": "of digits: folder"})
    eval_samples: int = field(
        default=512, metadata={"help": "samples to compare before and after; 0: none"}
    )
    sampling_steps: int = field(default=STEPS, metadata={"help": "model evaluations per image"})

    RANGES: ClassVar[dict[str, Range]] = {"eval_samples": AT_LEAST_0}

    def __post_init__(self) -> None:
        if self.data_root is not None and self.data != "mnist":
            raise ValueError("--data_root has no effect without --data mnist")
        if self.data_root is None and self.data == "mnist":
            raise ValueError("--data mnist needs --data_root DIR, the folder of its files")


changed = partial(with_default, DiffusionConfig)


@dataclass
class TrainConfig(DiffusionConfig):
    """f-DPO for images."""

    # These defaults keep an unconditional model in distribution while most of its samples change.
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


def check(args: DataArguments, config: TrainConfig) -> None:
    """Raises ``ValueError`` for options that have no effect together."""
    if config.validation_steps and not args.eval_samples:
        raise ValueError("--validation_steps has no effect with --eval_samples 0")


def load_model(args: DataArguments) -> tuple[nn.Module, NoiseProcess]:
    """Loads the model and its noising process and checks that the evaluation can follow."""
    from fdpo.diffusion.models import image_shape, load_image_model
    from fdpo.tasks.mnist_classifier import load_classifier, load_real_features, require_size

    model, process = load_image_model(args.model)
    if isinstance(process, Flow):
        process = replace(process, times=args.flow_times)
    elif args.flow_times != "uniform":
        raise ValueError(f"--flow_times has no effect: {args.model} is no flow model")
    load_classifier(args.classifier)
    require_size(image_shape(model), args.classifier)
    if args.eval_samples:
        import matplotlib  # noqa: F401  # the plots need it after the training

        load_real_features(args.classifier, args.target)
    return model, process


def feedback_folder(args: DataArguments) -> Path:
    """Returns the folder of the model's ranked samples, which dataset/main.py creates."""
    folder = Path(f"runs/dataset-{Path(args.model).name}-{args.target}")
    command = [sys.executable, str(COMMANDS / "dataset/main.py"), "--modality", "image"]
    command += ["--model", args.model, "--target", str(args.target)]
    command += ["--classifier", args.classifier, "--output_dir", str(folder)]
    run_first(command, target=folder / "README.md")
    return folder


def load_pairs(args: DataArguments, shape: Shape, seed: int) -> ImagePairs:
    """Loads the pairs of ``--data``.

    Arguments:
        args: The options.
        shape: The shape of the model's images.
        seed: The seed of random pairs.
    """
    if args.data == "feedback":
        return read_pair_folder(feedback_folder(args), shape)
    if args.data not in ("mnist", "digits"):
        return read_pair_folder(args.data, shape)
    images, labels = (
        load_mnist(str(args.data_root)) if args.data == "mnist" else load_small_digits(shape)
    )
    if images.shape[1:] != shape:
        size, needed = (" x ".join(map(str, sizes)) for sizes in (images.shape[1:], shape))
        raise ValueError(f"--data {args.data} has images of {size}, --model {args.model} {needed}")
    generator = torch.Generator().manual_seed(seed)
    return target_pairs(images, labels, args.target, PAIRS, generator)


def validate(args: DataArguments, process: NoiseProcess, model: nn.Module) -> dict[str, float]:
    """Returns metrics of samples of a model in training."""
    from fdpo.tasks.mnist_classifier import load_classifier, load_real_features
    from fdpo.tasks.mnist_report import report

    samples = report(
        model, process, load_classifier(args.classifier, next(model.parameters()).device),
        args.eval_samples, steps=args.sampling_steps, progress="validation samples",
    )  # fmt: skip
    variety = samples.variety(args.target, load_real_features(args.classifier, args.target))
    return {**samples.metrics(args.target), "variety": variety}


def finish(run: Run, args: DataArguments, trainer: DiffusionTrainer, base: nn.Module) -> None:
    """Saves the trained model, compares it with its base and writes the metrics."""
    from fdpo.diffusion.models import save_image_model
    from fdpo.tasks.mnist_report import compare, table

    save_image_model(trainer.merged(), trainer.process, run.folder)
    metrics = {"steps": trainer.step, "train_seconds": trainer.seconds, **trainer.quantiles()}
    if args.eval_samples:
        with run.reporting("comparison of samples"):
            comparison = compare(
                trainer.finished(), base, trainer.process, classifier=args.classifier,
                target=args.target, samples=args.eval_samples, steps=args.sampling_steps,
                reference_cache=trainer.config.reference_cache,
            )  # fmt: skip
            metrics |= comparison.metrics
            print(table(comparison.metrics))
            with run.reporting("plots"):
                comparison.plot(run.folder)
    run.finish(metrics)


def main() -> None:
    quiet_libraries()
    args, config = arguments.parse(
        (DataArguments, TrainConfig),
        program="train.py",
        presets="diffusion",
        description=(__doc__ or "").split("\n")[0],
        resets=RESETS,
        check=check,
    )
    options = arguments.resolved(args, config)
    resume = config.resume_from_checkpoint
    with Run("train.py", config.output_dir, options, resume=resume) as run:
        from fdpo.diffusion.models import image_shape
        from fdpo.diffusion.trainer import DiffusionTrainer

        keep_freed_memory()
        model, process = load_model(args)
        pairs = load_pairs(args, image_shape(model), config.seed)
        base = copy.deepcopy(model)
        trainer = DiffusionTrainer(model, process, pairs, config)
        run.start()
        if runs.is_main_process():
            print(f"{len(pairs):,} pairs of {len(pairs.images):,} images")
        trainer.train(run.checkpoint, partial(validate, args, process))
        run.exit_if(trainer.interrupts.stopped, trainer.step)
        if trainer.accelerator.is_main_process:
            finish(run, args, trainer, base)
        trainer.accelerator.end_training()


if __name__ == "__main__":
    main()
