"""Configuration of image training: diffusers' option names and the f-DPO loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import nn

from fdpo.cli.values import ABOVE_0, AT_LEAST_1, Range, require_ranges
from fdpo.losses.config import LossConfig

METHODS = {
    "dpo": (1.0, 0.0, 0.0),
    "dpo_sft": (0.1, 1.0, 0.0),
    "sft": (0.0, 1.0, 0.0),
    "negative_sft": (0.0, 0.0, 1.0),
}
"""method -> weights of the f-DPO loss, the winner's error and the difference of errors."""
KAPPA = 10.0
SCHEDULES = (
    "linear",
    "cosine",
    "cosine_with_restarts",
    "polynomial",
    "constant",
    "constant_with_warmup",
    "piecewise_constant",
)
"""The names of diffusers' learning rate schedules; importing ``SchedulerType`` takes seconds."""


@dataclass
class DiffusionConfig(LossConfig):
    r"""Configuration of :class:`~fdpo.diffusion.DiffusionTrainer`.

    The loss of a pair is a weighted sum of three terms, with :math:`e` the mean squared errors
    (mean over timesteps) and :math:`\hat\ell` the log-ratios of :mod:`fdpo.diffusion.noise`,

    .. math:: w_\text{dpo} L(\hat\ell_w, \hat\ell_l) + w_\text{sft} e_w
        + w_\text{neg} (e_w - \min(e_l, b\,e_l^\text{ref})).

    Arguments:
        method: The default weights: one term alone, or for ``dpo_sft`` 0.1 times the f-DPO loss
            plus the winner's error.
        dpo_weight: :math:`w_\text{dpo}`, the weight of the f-DPO loss.
        sft_weight: :math:`w_\text{sft}`, the weight of the winner's error.
        negative_sft_weight: :math:`w_\text{neg}`, the weight of the winner's error minus the
            loser's.
        negative_sft_bound: :math:`b`; the loser's error is clipped at :math:`b` times the
            reference's.
        kappa: :math:`\kappa`, nats per unit of error.
        true_weight: Sets :math:`\kappa = D\,T w_t`, the error's weight in the path's likelihood.
        max_kappa: The largest :math:`\kappa` of ``true_weight``.
        timesteps_per_pair: Samples of time and noise per pair, averaged in :math:`\hat\ell`.
        repeat_draws: The number of epochs with their own times and noise, which later epochs
            repeat; 0: every epoch has its own. Repeated samples need no second reference pass.
        reference_cache: Folder of the reference's errors and samples, by default in the user's
            cache folder (or ``$FDPO_CACHE``); ``off`` disables the cache.
        optimizer: AdamW, or Adafactor, which stores a row and a column of moments per matrix.
        validation_steps: Updates between calls of the validation that
            :meth:`DiffusionTrainer.train` receives; 0: none.
    """

    beta: float = field(
        default=1.0, metadata={"help": "weight of the reference: the reward is beta * link"}
    )
    method: Literal["dpo", "dpo_sft", "sft", "negative_sft"] = field(
        default="dpo", metadata={"help": "one term alone; dpo_sft: 0.1 f-DPO + 1 SFT"}
    )
    dpo_weight: float | None = field(default=None, metadata={"help": "weight of the f-DPO loss"})
    sft_weight: float | None = field(
        default=None, metadata={"help": "weight of the winner's squared error"}
    )
    negative_sft_weight: float | None = field(
        default=None, metadata={"help": "weight of the winner's error minus the loser's"}
    )
    negative_sft_bound: float = field(
        default=2.0, metadata={"help": "clip the loser's error at this multiple of the reference's"}
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
        default=1, metadata={"help": "samples of time and noise per pair"}
    )
    repeat_draws: int = field(
        default=0,
        metadata={"help": "epochs of new times and noise, then repeated; 0: all"},
    )
    reference_cache: str | None = field(
        default=None,
        metadata={"help": "folder of reference values, or off; default: ~/.cache/fdpo"},
    )
    output_dir: str | None = field(default=None, metadata={"help": "run folder"})
    max_train_steps: int = field(default=200, metadata={"help": "updates"})
    train_batch_size: int = field(default=32, metadata={"help": "pairs per process"})
    gradient_accumulation_steps: int = field(default=1, metadata={"help": "batches per update"})
    optimizer: Literal["adamw", "adafactor"] = field(
        default="adamw", metadata={"help": "adafactor needs less memory"}
    )
    learning_rate: float = field(default=1e-4, metadata={"help": "peak learning rate"})
    lr_scheduler: str = field(
        default="constant_with_warmup", metadata={"help": ", ".join(SCHEDULES)}
    )
    lr_warmup_steps: int = field(default=10, metadata={"help": "updates"})
    adam_beta1: float = field(default=0.9, metadata={"help": "of AdamW"})
    adam_beta2: float = field(default=0.999, metadata={"help": "of AdamW"})
    adam_weight_decay: float = field(default=0.0, metadata={"help": "of either optimizer"})
    adam_epsilon: float = field(default=1e-8, metadata={"help": "of AdamW"})
    max_grad_norm: float = field(default=1.0, metadata={"help": "gradient clipping"})
    use_ema: bool = field(default=False, metadata={"help": "average the weights over updates"})
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
    use_cpu: bool = field(default=False, metadata={"help": "train on the CPU even with a GPU"})
    dataloader_num_workers: int = field(default=0, metadata={"help": "processes that load pairs"})
    checkpointing_steps: int = field(default=100, metadata={"help": "updates between checkpoints"})
    checkpoints_total_limit: int = field(default=1, metadata={"help": "checkpoints to keep"})
    resume_from_checkpoint: str | None = field(
        default=None, metadata={"help": "last (or latest), checkpoint-N, or a folder"}
    )
    logging_steps: int = field(default=10, metadata={"help": "updates between rows of the log"})
    validation_steps: int = field(
        default=0, metadata={"help": "updates between validations; 0: only at the end"}
    )
    report_to: str = field(
        default="none", metadata={"help": "none, wandb, tensorboard …, with commas"}
    )
    seed: int = field(default=0, metadata={"help": "of the order of pairs, times and noise"})

    RANGES: ClassVar[dict[str, Range]] = {
        "learning_rate": ABOVE_0,
        "logging_steps": AT_LEAST_1,
        "max_grad_norm": ABOVE_0,
    }

    def __post_init__(self) -> None:
        require_ranges(self)
        self.check_loss()
        if self.true_weight and self.kappa is not None:
            raise ValueError("--kappa has no effect with --true_weight, which sets it")
        if self.kappa is None:
            self.kappa = KAPPA
        self._check_weights()
        self._check_optimizer()

    def _check_weights(self) -> None:
        if not sum(self.weights()):
            raise ValueError("--dpo_weight, --sft_weight and --negative_sft_weight are all 0")

    def _check_optimizer(self) -> None:
        if self.lr_scheduler not in SCHEDULES:
            raise ValueError(
                f"--lr_scheduler {self.lr_scheduler!r}: choose from {', '.join(SCHEDULES)}"
            )
        if self.optimizer == "adafactor":
            for name in ("adam_beta1", "adam_beta2", "adam_epsilon"):
                if getattr(self, name) != getattr(type(self), name):
                    raise ValueError(f"--{name} has no effect with --optimizer adafactor")

    def weights(self) -> tuple[float, float, float]:
        """Returns the weights of the f-DPO loss, the winner's error and the difference."""
        given = (self.dpo_weight, self.sft_weight, self.negative_sft_weight)
        dpo, sft, negative = (
            usual if weight is None else weight
            for usual, weight in zip(METHODS[self.method], given, strict=True)
        )
        return dpo, sft, negative

    def require_device(self, device: torch.device) -> None:
        """Raises ``ValueError`` if a device cannot train in ``mixed_precision``."""
        if self.mixed_precision == "fp16" and device.type == "cpu":
            raise ValueError("--mixed_precision fp16 needs a GPU: on a CPU choose bf16 or no")

    @property
    def trackers(self) -> list[str]:
        """The names of the trackers."""
        return [] if self.report_to == "none" else self.report_to.split(",")

    @property
    def compares(self) -> bool:
        """True if the loss needs the rejected side and the reference."""
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

            # With a constant learning rate, not Adafactor's relative one.
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
