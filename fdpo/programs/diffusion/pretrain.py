"""Trains the small models of pretrained/ on MNIST: a DDPM, a flow model and a digit classifier.

    python diffusion/pretrain.py --data_root DIR --model classifier
    python diffusion/pretrain.py --data_root DIR --model ddpm --export pretrained/mnist-ddpm
    python diffusion/pretrain.py --data_root DIR --model flow --export pretrained/mnist-flow

DIR holds MNIST's four files; if it does not, they are downloaded to it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

import torch
from torch import nn

from fdpo.cli import arguments
from fdpo.cli.program import Run
from fdpo.cli.quiet import quiet_libraries
from fdpo.cli.values import ABOVE_0, AT_LEAST_0, Range
from fdpo.diffusion.config import DiffusionConfig
from fdpo.diffusion.dataset import Images
from fdpo.diffusion.images import tiled, write_image
from fdpo.diffusion.noise import DDPM, Flow, NoiseProcess
from fdpo.runs.distributed import is_main_process, keep_freed_memory, partial_state
from fdpo.tasks.mnist import CLASSIFIER, load_mnist

Labelled = tuple[torch.Tensor, torch.Tensor]
"""Images and their digits."""


@dataclass
class PretrainArguments:
    """Model and training."""

    model: Literal["ddpm", "flow", "classifier"] = field(
        default="ddpm", metadata={"help": "kind of model"}
    )
    data_root: str = field(default="data", metadata={"help": "folder of MNIST's files"})
    init: str | None = field(
        default=None, metadata={"help": "ddpm, flow: model with the initial weights"}
    )
    prediction_type: Literal["epsilon", "v_prediction"] = field(
        default="epsilon", metadata={"help": "target of the DDPM"}
    )
    flow_times: Literal["uniform", "logit_normal"] = field(
        default="uniform", metadata={"help": "distribution of t in training the flow model"}
    )
    max_train_steps: int = field(default=6000, metadata={"help": "updates"})
    train_batch_size: int = field(default=64, metadata={"help": "images per process"})
    learning_rate: float = field(default=1e-3, metadata={"help": "peak learning rate"})
    mixed_precision: Literal["no", "fp16", "bf16"] = field(
        default="no", metadata={"help": "dtype of the forward pass"}
    )
    use_cpu: bool = field(default=False, metadata={"help": "train on the CPU even with a GPU"})
    checkpointing_steps: int = field(default=500, metadata={"help": "updates between checkpoints"})
    resume_from_checkpoint: str | None = field(
        default=None, metadata={"help": "last (or latest), checkpoint-N, or a folder"}
    )
    output_dir: str | None = field(
        default=None, metadata={"help": "run folder; default: runs/mnist-MODEL"}
    )
    export: str | None = field(
        default=None, metadata={"help": "folder of the finished model, in 16 bit"}
    )
    samples: int = field(default=2048, metadata={"help": "samples for the metrics of its card"})
    seed: int = field(default=0, metadata={"help": "seed of weights, order, times and noise"})

    RANGES: ClassVar[dict[str, Range]] = {"learning_rate": ABOVE_0, "samples": AT_LEAST_0}

    def __post_init__(self) -> None:
        self.output_dir = self.output_dir or f"runs/mnist-{self.model}"
        only = {"prediction_type": "ddpm", "flow_times": "flow"}
        for name, model in only.items():
            if self.model != model and getattr(self, name) != getattr(type(self), name):
                raise ValueError(f"--{name} has no effect with --model {self.model}")
        if self.model == "classifier" and self.resume_from_checkpoint:
            raise ValueError("--resume_from_checkpoint: the classifier has no checkpoints")
        if self.model == "classifier" and self.init:
            raise ValueError("--init has no effect with --model classifier")


def train_classifier(
    args: PretrainArguments, run: Run, train: Labelled, test: Labelled
) -> dict[str, float]:
    """Trains the classifier; measures it on test images and on images that are no digits."""
    from fdpo.tasks import mnist_classifier

    export = Path(args.export or run.folder)
    run.start()
    trained = mnist_classifier.train_classifier(
        *train,
        steps=args.max_train_steps,
        batch_size=args.train_batch_size,
        learning_rate=args.learning_rate,
        seed=args.seed,
        device="cpu" if args.use_cpu else partial_state().device,
    )
    trained.half().save_pretrained(export)
    metrics: dict[str, float] = {}
    with run.reporting("measures on test images"):
        classifier, (images, labels) = mnist_classifier.load_classifier(export), test
        judgement = mnist_classifier.judge(classifier, images)
        mnist_classifier.save_real_features(export, judgement, labels)
        metrics |= mnist_classifier.measure_classifier(
            classifier, images, labels, seed=args.seed + 1
        )
    return metrics


def train_denoiser(
    args: PretrainArguments, run: Run, train: Labelled, test: Labelled
) -> dict[str, float]:
    """Trains a diffusion or flow model; measures its loss and its samples in the main process."""
    from fdpo.diffusion.evaluate import held_out_loss
    from fdpo.diffusion.models import PixelUNet, load_image_model, save_image_model
    from fdpo.diffusion.trainer import DiffusionTrainer

    export = Path(args.export or run.folder)
    torch.manual_seed(args.seed)
    model: nn.Module = load_image_model(args.init)[0] if args.init else PixelUNet()
    process, config = make_process(args), make_config(args)
    trainer = DiffusionTrainer(model, process, Images(train[0]), config)
    run.start()
    trainer.train(run.checkpoint)
    run.exit_if(trainer.interrupts.stopped, trainer.step)
    metrics: dict[str, float] = {}
    if not trainer.accelerator.is_main_process:
        return metrics
    trained = trainer.finished()
    save_image_model(trained, process, export, half=True)
    with run.reporting("held-out loss"):
        metrics["held_out_loss"] = held_out_loss(trained, process, test[0])
    if CLASSIFIER.exists() and args.samples:
        with run.reporting("measures of samples"):
            metrics |= measure_samples(args, trained, process, export)
    return metrics


def make_process(args: PretrainArguments) -> NoiseProcess:
    """Returns the noising process."""
    if args.model == "flow":
        return Flow(args.flow_times)
    from diffusers import DDPMScheduler

    return DDPM(DDPMScheduler(prediction_type=args.prediction_type, timestep_spacing="trailing"))


def make_config(args: PretrainArguments) -> DiffusionConfig:
    """Returns the options of supervised training."""
    return DiffusionConfig(
        method="sft",
        output_dir=args.output_dir,
        max_train_steps=args.max_train_steps,
        train_batch_size=args.train_batch_size,
        learning_rate=args.learning_rate,
        lr_scheduler="cosine",
        lr_warmup_steps=100,
        use_ema=True,
        mixed_precision=args.mixed_precision,
        use_cpu=args.use_cpu,
        checkpointing_steps=args.checkpointing_steps,
        seed=args.seed,
    )


def measure_samples(
    args: PretrainArguments, model: nn.Module, process: NoiseProcess, export: Path
) -> dict[str, float]:
    """Returns the share of each digit among a model's samples and writes some of them."""
    from fdpo.tasks.mnist_classifier import load_classifier
    from fdpo.tasks.mnist_report import report

    samples = report(model, process, load_classifier(CLASSIFIER), args.samples, progress="sampling")
    write_image(export / "samples.png", tiled(samples.images[:100], 10))
    *shares, none = samples.histogram.tolist()
    metrics = {f"share_{digit}": share for digit, share in enumerate(shares)}
    return {**metrics, "out_of_distribution": none}


def main() -> None:
    quiet_libraries()
    (args,) = arguments.parse(
        (PretrainArguments,),
        program="pretrain.py",
        presets="diffusion",
        description=(__doc__ or "").split("\n")[0],
    )
    options = arguments.resolved(args)
    resume = args.resume_from_checkpoint
    with Run("pretrain.py", args.output_dir, options, resume=resume) as run:
        keep_freed_memory()
        train = load_mnist(args.data_root)
        test = load_mnist(args.data_root, train=False)
        train_model = train_classifier if args.model == "classifier" else train_denoiser
        metrics = train_model(args, run, train, test)
        if is_main_process():
            print("\n".join(f"{name:24} {value:.4f}" for name, value in metrics.items()))
        run.finish(metrics)


if __name__ == "__main__":
    main()
