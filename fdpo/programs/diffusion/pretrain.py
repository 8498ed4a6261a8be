"""Trains the small models of pretrained/ on MNIST: a DDPM, a flow model and a digit classifier.

    python diffusion/pretrain.py --data_root DIR --model classifier
    python diffusion/pretrain.py --data_root DIR --model ddpm --export pretrained/mnist-ddpm
    python diffusion/pretrain.py --data_root DIR --model flow --export pretrained/mnist-flow

DIR holds MNIST's four files, or is where they are downloaded to.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from diffusers import DDPMScheduler
from torch import nn

from fdpo import runs
from fdpo.cli import arguments
from fdpo.diffusion import DDPM, DiffusionConfig, DiffusionTrainer, Flow, NoiseProcess, PixelUNet
from fdpo.diffusion.dataset import Pictures
from fdpo.diffusion.evaluate import held_out_loss, report
from fdpo.diffusion.images import tiled, write_image
from fdpo.diffusion.models import load, save
from fdpo.runs.distributed import keep_freed_memory
from fdpo.tasks import PRETRAINED
from fdpo.tasks.mnist import judge, load_classifier, measured, save_real_features
from fdpo.tasks.mnist_classifier import train_classifier
from fdpo.tasks.mnist_data import load_mnist

CLASSIFIER = PRETRAINED / "mnist-classifier"


@dataclass
class PretrainArguments:
    """Model and training."""

    model: Literal["ddpm", "flow", "classifier"] = field(
        default="ddpm", metadata={"help": "what to train"}
    )
    data_root: str = field(default="data", metadata={"help": "folder of MNIST's files"})
    init: str | None = field(
        default=None, metadata={"help": "model whose weights to start from, of ddpm or flow"}
    )
    prediction_type: Literal["epsilon", "v_prediction"] = field(
        default="epsilon", metadata={"help": "what the DDPM predicts"}
    )
    flow_times: Literal["uniform", "logit_normal"] = field(
        default="uniform", metadata={"help": "how training of the flow model draws t"}
    )
    max_train_steps: int = field(default=6000, metadata={"help": "updates"})
    train_batch_size: int = field(default=64, metadata={"help": "pictures per process"})
    learning_rate: float = field(default=1e-3, metadata={"help": "peak learning rate"})
    mixed_precision: Literal["no", "fp16", "bf16"] = field(
        default="no", metadata={"help": "dtype of the forward pass"}
    )
    use_cpu: bool = field(default=False, metadata={"help": "leave a GPU alone"})
    checkpointing_steps: int = field(default=500, metadata={"help": "updates between checkpoints"})
    resume_from_checkpoint: str | None = field(
        default=None, metadata={"help": "a checkpoint's folder, or last"}
    )
    output_dir: str | None = field(
        default=None, metadata={"help": "run folder; default: runs/mnist-MODEL"}
    )
    export: str | None = field(
        default=None, metadata={"help": "folder to write the finished model to, in 16 bit"}
    )
    samples: int = field(default=2048, metadata={"help": "samples for the figures of its card"})
    seed: int = field(default=0, metadata={"help": "seed of weights, order, times and noise"})

    def __post_init__(self) -> None:
        self.output_dir = self.output_dir or f"runs/mnist-{self.model}"
        only = {"prediction_type": "ddpm", "flow_times": "flow"}
        for name, model in only.items():
            if self.model != model and getattr(self, name) != getattr(type(self), name):
                raise ValueError(f"--{name} has no effect with --model {self.model}")
        if self.model == "classifier" and self.resume_from_checkpoint:
            raise ValueError("--resume_from_checkpoint: the classifier's training keeps none")
        if self.model == "classifier" and self.init:
            raise ValueError("--init has no effect with --model classifier")


def main() -> None:
    keep_freed_memory()
    (own,) = arguments.parse(
        (PretrainArguments,),
        program="pretrain.py",
        presets="diffusion",
        description=(__doc__ or "").split("\n")[0],
    )
    with arguments.usage_errors("pretrain.py"):
        checkpoint = runs.checkpoint(own.output_dir, own.resume_from_checkpoint)
        pictures, labels = load_mnist(own.data_root)
        test = load_mnist(own.data_root, train=False)
        options = arguments.resolved(own)
        torch.manual_seed(own.seed)
        start = load(own.init)[0] if own.init else PixelUNet()
        folder = runs.prepare(own.output_dir, options, resume=own.resume_from_checkpoint)
    export = Path(own.export or folder)
    if own.model == "classifier":
        metrics = classifier(own, export, (pictures, labels), test)
    else:
        metrics = denoiser(own, export, start, pictures, test[0], checkpoint)
    if metrics:
        runs.write_json(folder / runs.METRICS, metrics)
        print("\n".join(f"{name:24} {value:.4f}" for name, value in metrics.items()))


def classifier(
    own: PretrainArguments,
    export: Path,
    train: tuple[torch.Tensor, torch.Tensor],
    test: tuple[torch.Tensor, torch.Tensor],
) -> dict[str, float]:
    """Trains the classifier and measures it on MNIST's test pictures, and on what is no digit."""
    trained = train_classifier(
        *train,
        steps=own.max_train_steps,
        batch_size=own.train_batch_size,
        learning_rate=own.learning_rate,
        seed=own.seed,
        device="cpu" if own.use_cpu or not torch.cuda.is_available() else "cuda",
    )
    trained.half().save_pretrained(export)
    kept, (pictures, labels) = load_classifier(export), test
    save_real_features(export, judge(kept, pictures), labels)
    return measured(kept, pictures, labels, seed=own.seed + 1)


def denoiser(
    own: PretrainArguments,
    export: Path,
    start: nn.Module,
    pictures: torch.Tensor,
    test: torch.Tensor,
    checkpoint: str | None,
) -> dict[str, float]:
    """Trains a diffusion or flow model and measures its loss and its samples."""
    process: NoiseProcess = Flow(own.flow_times)
    if own.model == "ddpm":
        process = DDPM(
            DDPMScheduler(prediction_type=own.prediction_type, timestep_spacing="trailing")
        )
    config = DiffusionConfig(
        method="sft",
        output_dir=own.output_dir,
        max_train_steps=own.max_train_steps,
        train_batch_size=own.train_batch_size,
        learning_rate=own.learning_rate,
        lr_scheduler="cosine",
        lr_warmup_steps=100,
        use_ema=True,
        mixed_precision=own.mixed_precision,
        use_cpu=own.use_cpu,
        checkpointing_steps=own.checkpointing_steps,
        seed=own.seed,
    )
    trainer = DiffusionTrainer(start, process, Pictures(pictures), config)
    trainer.train(checkpoint)
    if trainer.interrupts.stopped:
        raise SystemExit(f"stopped at step {trainer.step}; --resume_from_checkpoint last goes on")
    if not trainer.accelerator.is_main_process:
        return {}
    model = trainer.finished()
    save(model, process, export, half=True)
    metrics = {"held_out_loss": held_out_loss(model, process, test)}
    if CLASSIFIER.exists() and own.samples:
        found = report(model, process, load_classifier(CLASSIFIER), own.samples, progress="samples")
        write_image(export / "samples.png", tiled(found.pictures[:100], 10))
        shares = found.histogram.tolist()
        metrics |= {f"share_{digit}": share for digit, share in enumerate(shares[:-1])}
        metrics["out_of_distribution"] = shares[-1]
    return metrics


if __name__ == "__main__":
    main()
