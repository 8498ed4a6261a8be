"""The options of image training: diffusers' names where they exist, plus the choice of loss."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from diffusers.optimization import SchedulerType
from torch import nn

from fdpo.losses.config import LossConfig

METHODS = {
    "dpo": (1.0, 0.0, 0.0),
    "dpo_sft": (0.1, 1.0, 0.0),
    "sft": (0.0, 1.0, 0.0),
    "negative_sft": (0.0, 0.0, 1.0),
}
"""method -> weights of the f-DPO loss, the winner's error and the difference of errors."""
KAPPA = 10.0


@dataclass
class DiffusionConfig(LossConfig):
    r"""Configuration of :class:`~fdpo.diffusion.DiffusionTrainer`.

    The loss of a pair is a mix, with :math:`e` the mean squared errors (mean over timesteps) and
    :math:`\hat\ell` the log-ratios of :mod:`fdpo.diffusion.noise`,

    .. math:: w_\text{dpo} L(\hat\ell_w, \hat\ell_l) + w_\text{sft} e_w
        + w_\text{neg} (e_w - \min(e_l, b\,e_l^\text{ref})).

    Arguments:
        method: The weights where none is given: one term alone, or for ``dpo_sft`` 0.1 of the f-DPO
            loss and 1 of the winner's error.
        dpo_weight: :math:`w_\text{dpo}`, the f-DPO loss.
        sft_weight: :math:`w_\text{sft}`, the winner's error.
        negative_sft_weight: :math:`w_\text{neg}`, the winner's error less the loser's.
        negative_sft_bound: :math:`b`: a loser's error counts up to :math:`b` reference errors.
        kappa: :math:`\kappa`, nats per unit of error.
        true_weight: Whether :math:`\kappa` is :math:`D\,T w_t`, as in the path's likelihood.
        max_kappa: The largest :math:`\kappa` of ``true_weight``.
        timesteps_per_pair: Draws of time and noise per pair, averaged inside :math:`\hat\ell`.
        repeat_draws: The epochs with times and noise of their own, which later ones repeat; 0: each
            has its own. Where draws repeat, the reference need not be run again.
        reference_cache: Folder of the reference's errors and samples, by default in the user's
            cache folder (or ``$FDPO_CACHE``); ``off`` keeps none.
        optimizer: AdamW, or Adafactor, which keeps a row and a column of moments for a matrix.
        validation_steps: Updates between the validations that :meth:`DiffusionTrainer.train` is
            given; 0: none.
    """

    beta: float = field(
        default=1.0, metadata={"help": "strength of the reference: the reward is beta * link"}
    )
    method: Literal["dpo", "dpo_sft", "sft", "negative_sft"] = field(
        default="dpo", metadata={"help": "one term alone; dpo_sft: 0.1 f-DPO + 1 SFT"}
    )
    dpo_weight: float | None = field(default=None, metadata={"help": "weight of the f-DPO loss"})
    sft_weight: float | None = field(
        default=None, metadata={"help": "weight of the winner's squared error"}
    )
    negative_sft_weight: float | None = field(
        default=None, metadata={"help": "weight of the winner's error less the loser's"}
    )
    negative_sft_bound: float = field(
        default=2.0, metadata={"help": "a loser's error counts up to so many times the reference's"}
    )
    kappa: float | None = field(
        default=None, metadata={"help": f"nats per unit of squared error; default: {KAPPA:g}"}
    )
    true_weight: bool = field(
        default=False, metadata={"help": "kappa is the error's weight in the path's likelihood"}
    )
    max_kappa: float = field(
        default=10_000.0, metadata={"help": "true_weight: the largest kappa, nats"}
    )
    timesteps_per_pair: int = field(
        default=1, metadata={"help": "draws of time and noise for a pair"}
    )
    repeat_draws: int = field(
        default=0, metadata={"help": "epochs with draws of their own, then repeated; 0: all"}
    )
    reference_cache: str | None = field(
        default=None,
        metadata={"help": "folder of the reference's numbers, or off; default: ~/.cache/fdpo"},
    )
    output_dir: str | None = field(default=None, metadata={"help": "run folder"})
    max_train_steps: int = field(default=200, metadata={"help": "updates"})
    train_batch_size: int = field(default=32, metadata={"help": "pairs per process"})
    gradient_accumulation_steps: int = field(default=1, metadata={"help": "batches of an update"})
    optimizer: Literal["adamw", "adafactor"] = field(
        default="adamw", metadata={"help": "adafactor needs less memory"}
    )
    learning_rate: float = field(default=1e-4, metadata={"help": "peak learning rate"})
    lr_scheduler: str = field(
        default="constant_with_warmup",
        metadata={"help": ", ".join(kind.value for kind in SchedulerType)},
    )
    lr_warmup_steps: int = field(default=10, metadata={"help": "updates"})
    adam_beta1: float = field(default=0.9, metadata={"help": "of AdamW"})
    adam_beta2: float = field(default=0.999, metadata={"help": "of AdamW"})
    adam_weight_decay: float = field(default=0.0, metadata={"help": "of either optimizer"})
    adam_epsilon: float = field(default=1e-8, metadata={"help": "of AdamW"})
    max_grad_norm: float = field(default=1.0, metadata={"help": "largest norm of a gradient"})
    use_ema: bool = field(default=False, metadata={"help": "keep the weights' moving average"})
    ema_decay: float = field(default=0.999, metadata={"help": "of the moving average, per update"})
    rank: int = field(default=0, metadata={"help": "of LoRA; 0: train all weights"})
    lora_alpha: float | None = field(
        default=None, metadata={"help": "LoRA's scale times its rank; default: the rank"}
    )
    lora_target_modules: list[str] = field(
        default_factory=lambda: "conv1 conv2 to_q to_k to_v to_out.0".split(),
        metadata={"help": "layers with an adapter"},
    )
    mixed_precision: Literal["no", "fp16", "bf16"] = field(
        default="no", metadata={"help": "dtype of the forward pass"}
    )
    gradient_checkpointing: bool = field(
        default=False, metadata={"help": "recompute activations to save memory"}
    )
    use_cpu: bool = field(default=False, metadata={"help": "leave a GPU alone"})
    dataloader_num_workers: int = field(default=0, metadata={"help": "processes that load pairs"})
    checkpointing_steps: int = field(default=100, metadata={"help": "updates between checkpoints"})
    checkpoints_total_limit: int = field(default=1, metadata={"help": "checkpoints to keep"})
    resume_from_checkpoint: str | None = field(
        default=None, metadata={"help": "a checkpoint's folder, or last"}
    )
    logging_steps: int = field(default=10, metadata={"help": "updates between rows of the log"})
    validation_steps: int = field(
        default=0, metadata={"help": "updates between looks at samples; 0: only at the end"}
    )
    report_to: str = field(
        default="none", metadata={"help": "none, wandb, tensorboard …, with commas"}
    )
    seed: int = field(default=0, metadata={"help": "of the order of pairs, times and noise"})

    def __post_init__(self) -> None:
        self.check_loss()
        if self.true_weight and self.kappa is not None:
            raise ValueError("--kappa has no effect with --true_weight, which sets it")
        if self.kappa is None:
            self.kappa = KAPPA
        above_0 = (
            "kappa", "max_kappa", "timesteps_per_pair", "max_train_steps", "train_batch_size",
            "gradient_accumulation_steps", "learning_rate", "max_grad_norm",
            "negative_sft_bound", "checkpointing_steps", "checkpoints_total_limit", "logging_steps",
        )  # fmt: skip
        for name in above_0:
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"--{name} must be finite and above 0, got {getattr(self, name)}")
        weights = self.weights()
        if not all(0 <= weight < math.inf for weight in weights) or not sum(weights):
            raise ValueError(
                "--dpo_weight, --sft_weight and --negative_sft_weight must be finite, at least 0, "
                f"and not all 0; got {', '.join(map(str, weights))}"
            )
        if self.optimizer == "adafactor":
            for name in ("adam_beta1", "adam_beta2", "adam_epsilon"):
                if getattr(self, name) != getattr(type(self), name):
                    raise ValueError(f"--{name} has no effect with --optimizer adafactor")
        for name in ("rank", "validation_steps", "repeat_draws"):
            if getattr(self, name) < 0:
                raise ValueError(f"--{name} must be at least 0, got {getattr(self, name)}")
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"--ema_decay must lie in [0, 1), got {self.ema_decay}")

    def weights(self) -> tuple[float, float, float]:
        """Returns the weights of the f-DPO loss, the winner's error and the difference."""
        given = (self.dpo_weight, self.sft_weight, self.negative_sft_weight)
        dpo, sft, negative = (
            usual if weight is None else weight
            for usual, weight in zip(METHODS[self.method], given, strict=True)
        )
        return dpo, sft, negative

    @property
    def compares(self) -> bool:
        """Whether the loss asks for the rejected side and for the reference."""
        dpo, _, negative = self.weights()
        return bool(dpo or negative)

    @property
    def peak_learning_rate(self) -> float:
        """The learning rate after the warm-up."""
        return self.learning_rate

    def make_optimizer(self, parameters: Sequence[nn.Parameter]) -> torch.optim.Optimizer:
        """Returns the optimizer of these parameters."""
        if self.optimizer == "adafactor":
            from transformers import Adafactor

            # At the learning rate that is given, not one of its own making.
            return Adafactor(
                parameters, lr=self.peak_learning_rate, weight_decay=self.adam_weight_decay,
                scale_parameter=False, relative_step=False,
            )  # fmt: skip
        return torch.optim.AdamW(
            parameters,
            lr=self.peak_learning_rate,
            betas=(self.adam_beta1, self.adam_beta2),
            weight_decay=self.adam_weight_decay,
            eps=self.adam_epsilon,
            fused=True,
        )
