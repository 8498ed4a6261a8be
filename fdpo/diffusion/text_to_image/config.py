"""Configuration of Stable Diffusion training; the defaults are Diffusion-DPO's published recipe."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar

from fdpo.cli.values import AT_LEAST_0, Range
from fdpo.diffusion.config import DiffusionConfig
from fdpo.losses.config import with_default
from fdpo.runs.distributed import num_processes

changed = partial(with_default, DiffusionConfig)
KAPPA = 2500.0
PAIRS_PER_UPDATE = 2048
STEPS, GUIDANCE = 50, 7.5
"""Denoising steps and guidance scale, the defaults of diffusers' pipelines."""


@dataclass
class StableDiffusionConfig(DiffusionConfig):
    r"""Configuration of f-DPO for Stable Diffusion.

    With :math:`\kappa = 2500` and :math:`\beta = 1` the reverse KL is Diffusion-DPO as published,
    whose loss is :math:`-\log\sigma(-\tfrac{1}{2} 5000\,\Delta)` with :math:`\Delta` the difference
    of errors. For any other divergence :math:`\kappa` and :math:`\beta` are two numbers:
    :math:`\kappa` sets how far along its link a difference reaches. (Wallace et al., 2024,
    https://arxiv.org/abs/2311.12908)

    Arguments:
        gradient_accumulation_steps: Batches per update; 0: as many as make 2,048 pairs in all
            processes together.
        scale_lr: True if ``learning_rate`` is per pair, to be multiplied by the pairs per update.

    Raises:
        ValueError: If an option is out of range or has no effect.
    """

    kappa: float | None = field(
        default=None, metadata={"help": f"nats per unit of squared error; default: {KAPPA:g}"}
    )
    max_train_steps: int = changed("max_train_steps", 2000)
    train_batch_size: int = changed("train_batch_size", 1)
    gradient_accumulation_steps: int = field(
        default=0,
        metadata={"help": f"batches per update; 0: as many as make {PAIRS_PER_UPDATE:,} pairs"},
    )
    learning_rate: float = changed("learning_rate", 1e-8)
    scale_lr: bool = field(
        default=True, metadata={"help": "multiply the learning rate by the pairs per update"}
    )
    lr_warmup_steps: int = changed("lr_warmup_steps", 500)
    adam_weight_decay: float = changed("adam_weight_decay", 1e-2)
    lora_target_modules: list[str] = field(
        default_factory=lambda: "to_q to_k to_v to_out.0".split(),
        metadata={"help": "layers with an adapter"},
    )
    push_to_hub: bool = field(default=False, metadata={"help": "upload the finished model"})
    hub_model_id: str | None = field(
        default=None, metadata={"help": "hub id to upload to; default: the run folder's name"}
    )

    RANGES: ClassVar[dict[str, Range]] = {"gradient_accumulation_steps": AT_LEAST_0}

    def __post_init__(self) -> None:
        if self.kappa is None and not self.true_weight:
            self.kappa = KAPPA
        if self.hub_model_id is not None and not self.push_to_hub:
            raise ValueError("--hub_model_id has no effect without --push_to_hub")
        if self.gradient_accumulation_steps == 0:
            self.gradient_accumulation_steps = self._batches_per_update()
        super().__post_init__()

    def _batches_per_update(self) -> int:
        batch = max(self.train_batch_size, 1) * num_processes()
        if PAIRS_PER_UPDATE % batch:
            raise ValueError(
                f"--train_batch_size {self.train_batch_size} in {num_processes()} processes does "
                f"not divide {PAIRS_PER_UPDATE:,} pairs: give --gradient_accumulation_steps"
            )
        return PAIRS_PER_UPDATE // batch

    @property
    def pairs_per_update(self) -> int:
        """Number of pairs per update, in all processes together."""
        return self.train_batch_size * self.gradient_accumulation_steps * num_processes()

    @property
    def peak_learning_rate(self) -> float:
        """Learning rate after the warm-up."""
        return self.learning_rate * (self.pairs_per_update if self.scale_lr else 1)
