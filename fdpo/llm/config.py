"""Options of text training: TRL's own, and those of the loss."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers.utils import is_torch_bf16_gpu_available
from trl import DPOConfig

from fdpo.losses.config import LossConfig

REFUSED: dict[str, tuple[tuple[Any, ...], str]] = {
    "loss_type": (
        (["sigmoid"],),
        "choose with --loss (sigmoid, hinge, ipo) and --preference (robust)",
    ),
    "loss_weights": ((None,), "combine losses with --loss and --sft_weight"),
    "f_divergence_type": (
        ("reverse_kl",),
        "use --loss: forward_kl is fkl, js_divergence is jsd, alpha_divergence is alpha",
    ),
    "f_alpha_divergence_coef": ((0.5,), "use --loss alpha --alpha A with A = 1 - coefficient"),
    "ld_alpha": ((None,), "log-ratios are sums over the whole completion; leave it out"),
    "use_weighting": (
        (False,),
        "weighted preference optimisation is not an f-DPO loss; leave it out",
    ),
    "discopop_tau": (
        (0.05,),
        "it belongs to the discopop loss; choose with --loss and --preference",
    ),
    "label_smoothing_factor": ((0.0, 0), "use --label_smoothing"),
    "padding_free": ((False,), "TRL pads in any case; leave it out"),
    "remove_unused_columns": ((False,), "the trainer needs to know which completions were cut"),
}
"""Options of ``DPOConfig`` that f-DPO does not honour: neutral values and the alternative."""


@dataclass
class FDPOConfig(LossConfig, DPOConfig):
    """Configuration of :class:`~fdpo.llm.FDPOTrainer`: ``trl.DPOConfig`` and the choice of loss.

    ``FDPOConfig()`` runs bare on a CPU: bf16 and gradient checkpointing follow the device unless
    they are given. An option of TRL that f-DPO does not honour is refused with the option to use.
    The loss is chosen by the fields of :class:`fdpo.losses.config.LossConfig`.

    Arguments:
        sft_weight: Weight of the chosen completion's negative log-likelihood per token.
        log_pairs: Whether to write a row per pair and step to ``pairs.jsonl``.
        shared_prompts: Whether completions may share a row with their prompt; by default wherever
            the model can, where it saves work.
        reference_cache: Folder that caches the reference's log-probabilities and samples, by
            default in the user's cache folder (or ``$FDPO_CACHE``); ``off`` caches nothing.
    """

    sft_weight: float = field(
        default=0.0, metadata={"help": "weight of the chosen completions' nats per token"}
    )
    log_pairs: bool = field(
        default=False,
        metadata={"help": "write log-ratios, links and slopes of every pair to pairs.jsonl"},
    )
    shared_prompts: bool | None = field(
        default=None,
        metadata={"help": "run a prompt once for its completions; default: where it saves work"},
    )
    reference_cache: str | None = field(
        default=None,
        metadata={"help": "folder that caches the reference, or off; default: ~/.cache/fdpo"},
    )
    use_cpu: bool = field(default=False, metadata={"help": "leave a GPU alone; on without one"})
    bf16: bool | None = field(
        default=None, metadata={"help": "bfloat16 mixed precision; by default where the GPU has it"}
    )
    gradient_checkpointing: bool | None = field(
        default=None, metadata={"help": "recompute activations to save memory; by default on a GPU"}
    )
    remove_unused_columns: bool = field(
        default=False, metadata={"help": "stays off: the collator reads which completions were cut"}
    )
    logging_nan_inf_filter: bool = field(
        default=False, metadata={"help": "hide non-finite losses in the log (they stop the run)"}
    )

    _VALID_DICT_FIELDS = [*DPOConfig._VALID_DICT_FIELDS, "loss_args"]

    def __post_init__(self) -> None:
        self._refuse()
        accelerated = torch.accelerator.is_available() and not self.use_cpu
        self.use_cpu = not accelerated
        if self.bf16 is None:
            self.bf16 = accelerated and not self.fp16 and is_torch_bf16_gpu_available()
        if self.gradient_checkpointing is None:
            self.gradient_checkpointing = accelerated
        super().__post_init__()
        self.check_loss()
        if not (math.isfinite(self.sft_weight) and self.sft_weight >= 0):
            raise ValueError(f"--sft_weight must be finite and at least 0, got {self.sft_weight}")

    def _refuse(self) -> None:
        for name, (neutral, advice) in REFUSED.items():
            if (value := getattr(self, name)) not in neutral:
                raise ValueError(f"--{name} {value!r} is not honoured by f-DPO: {advice}")
