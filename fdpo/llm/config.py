"""The options of text training: TRL's own, plus the choice of divergence."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers.utils import is_torch_bf16_gpu_available
from trl import DPOConfig

from fdpo.divergences import Divergence
from fdpo.losses import PREFERENCES, resolve_loss

# What DPOConfig offers and f-DPO does not honour: option -> (its neutral values, what to use).
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


@dataclass
class FDPOConfig(DPOConfig):
    r"""Configuration of :class:`~fdpo.llm.FDPOTrainer`: ``trl.DPOConfig`` and a divergence.

    ``FDPOConfig()`` runs bare on a CPU: bf16 and gradient checkpointing follow the device unless
    they are given. An option of TRL that f-DPO does not honour is refused with the option to use.

    Arguments:
        loss: A divergence, a preference loss on the reverse KL, a mixture or your own; every name
            that :func:`fdpo.resolve_loss` takes.
        alpha: :math:`\alpha` of the :math:`\alpha`-divergence, in the paper's convention (TRL's
            coefficient is :math:`1 - \alpha`).
        loss_args: The divergence's other parameters, e.g. ``{"t": 0.3}`` for ``skew_js``.
        preference: The loss of the margin; by default the one that ``loss`` names.
        tail: Slope factor :math:`e^\tau` beyond which a link goes on as a straight line
            (see :func:`fdpo.fdpo_loss`); infinity turns it off.
        match_curvature: Whether to divide the link by :math:`f''(1)`, so that :math:`\beta` means
            the same at the start of training whatever the divergence.
        sft_weight: Weight of the chosen completion's negative log-likelihood per token.
        log_pairs: Whether to write a row per pair and step to ``pairs.jsonl``.
    """

    loss: str = field(
        default="sigmoid",
        metadata={
            "help": "sigmoid, hinge, ipo, jsd, fkl, alpha, any divergence's name, a mixture "
            "('0.7*js+0.3*reverse_kl') or your own ('package.module:attribute')"
        },
    )
    alpha: float | None = field(
        default=None, metadata={"help": "alpha of the alpha-divergence: 0 reverse KL, 1 forward KL"}
    )
    loss_args: dict[str, Any] | str | None = field(
        default=None,
        metadata={"help": "other parameters of the divergence, as JSON: '{\"t\": 0.3}'"},
    )
    preference: str | None = field(
        default=None, metadata={"help": f"loss of the margin: {', '.join(PREFERENCES)}"}
    )
    tail: float | None = field(
        default=10.0,
        metadata={"help": "log of the slope factor where a link turns straight; inf: never"},
    )
    match_curvature: bool = field(
        default=False, metadata={"help": "divide links by f''(1): one beta for every divergence"}
    )
    sft_weight: float = field(
        default=0.0, metadata={"help": "weight of the chosen completions' nats per token"}
    )
    log_pairs: bool = field(
        default=False,
        metadata={"help": "write every pair's log-ratios, links, slopes: pairs.jsonl"},
    )
    label_smoothing: float = field(
        default=0.0, metadata={"help": "share of flipped labels to expect, in [0, 0.5)"}
    )
    beta: float = field(
        default=0.1, metadata={"help": "strength of the reference: the reward is beta * link"}
    )
    use_cpu: bool = field(default=False, metadata={"help": "leave a GPU alone; on without one"})
    bf16: bool | None = field(
        default=None, metadata={"help": "bfloat16 mixed precision; by default where the GPU has it"}
    )
    gradient_checkpointing: bool | None = field(
        default=None, metadata={"help": "recompute activations to save memory; by default on a GPU"}
    )
    remove_unused_columns: bool = field(
        default=False, metadata={"help": "kept off: the collator reads which completions were cut"}
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
        self._check()

    def resolve(self) -> tuple[Divergence, str]:
        """Returns the divergence and the name of the preference loss that these options choose."""
        given = self.loss_args or {}
        parameters = dict(json.loads(given) if isinstance(given, str) else given)
        if self.alpha is not None and parameters.setdefault("alpha", self.alpha) != self.alpha:
            raise ValueError(f"--alpha {self.alpha} and --loss_args {given} say different things")
        divergence, preference = resolve_loss(self.loss, **parameters)
        return divergence, self.preference or preference

    def _refuse(self) -> None:
        for name, (neutral, advice) in REFUSED.items():
            if (value := getattr(self, name)) not in neutral:
                raise ValueError(f"--{name} {value!r} is not honoured by f-DPO: {advice}")

    def _check(self) -> None:
        self.resolve()
        if self.preference is not None and self.preference not in PREFERENCES:
            raise ValueError(
                f"--preference {self.preference!r}: choose from {', '.join(PREFERENCES)}"
            )
        if not (math.isfinite(self.beta) and self.beta > 0):
            raise ValueError(f"--beta must be a finite number above 0, got {self.beta}")
        if not (math.isfinite(self.sft_weight) and self.sft_weight >= 0):
            raise ValueError(f"--sft_weight must be finite and at least 0, got {self.sft_weight}")
        if not 0 <= self.label_smoothing < 0.5:
            raise ValueError(f"--label_smoothing must lie in [0, 0.5), got {self.label_smoothing}")
        if self.tail is not None and not self.tail > 0:
            raise ValueError(f"--tail must be above 0 (inf turns it off), got {self.tail}")
