"""Options of text training: TRL's own, and those of the loss."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from transformers.utils import is_torch_bf16_gpu_available
from trl import DPOConfig

from fdpo.cli.values import require_ranges
from fdpo.losses.config import LossConfig
from fdpo.runs.secrets import without_secrets

COUNTERPARTS = {
    "hinge": "--loss hinge",
    "ipo": "--loss ipo",
    "robust": "--preference robust",
    "sft": "--sft_weight WEIGHT",
}
"""TRL's losses that f-DPO has under another option."""

REFUSED: dict[str, tuple[tuple[Any, ...], str]] = {
    "loss_type": ((["sigmoid"], "sigmoid"), "choose with --loss and --preference"),
    "loss_weights": ((None, [1.0]), "combine losses with --loss and --sft_weight"),
    "f_divergence_type": (
        ("reverse_kl",),
        "use --loss: forward_kl is fkl, js_divergence is jsd, alpha_divergence is alpha",
    ),
    "f_alpha_divergence_coef": ((0.5,), "use --loss alpha --alpha A with A = 1 - coefficient"),
    "ld_alpha": ((None, 1.0), "log-ratios are sums over the whole completion; leave it out"),
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


def counterpart_advice(loss_types: Sequence[str]) -> str:
    """Returns the options to use in place of TRL's losses, and those that have none.

    Example:
        >>> counterpart_advice(["sigmoid", "sft", "bco_pair"])
        'for sft use --sft_weight WEIGHT; f-DPO has no counterpart of bco_pair (see --loss)'
    """
    others = [name for name in loss_types if name != "sigmoid"]
    parts = [f"for {name} use {COUNTERPARTS[name]}" for name in others if name in COUNTERPARTS]
    if unknown := [name for name in others if name not in COUNTERPARTS]:
        parts.append(f"f-DPO has no counterpart of {', '.join(unknown)} (see --loss)")
    return "; ".join(parts) or REFUSED["loss_type"][1]


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
        self._check()

    @classmethod
    def from_trl(cls, args: DPOConfig) -> FDPOConfig:
        """Returns a configuration of TRL with the defaults of the options that are ours.

        All values stay as TRL resolved them; only options that the trainer needs off are turned
        off, which are on in every ``DPOConfig``.

        Raises:
            TypeError: If it is none.
            ValueError: If an option is refused, as for an ``FDPOConfig``.
        """
        if isinstance(args, cls):
            return args
        if not isinstance(args, DPOConfig):
            kind = type(args).__name__
            raise TypeError(f"args must be an FDPOConfig or a DPOConfig, not {kind}")
        config = object.__new__(cls)  # TRL has resolved the options already
        for option in fields(cls):
            if not hasattr(args, option.name):
                setattr(config, option.name, option.default)
        config.__dict__.update(vars(args))
        config.remove_unused_columns = config.logging_nan_inf_filter = False
        config._refuse()
        config._check()
        return config

    def _refuse(self) -> None:
        for name, (neutral, advice) in REFUSED.items():
            if (value := getattr(self, name)) not in neutral:
                if name == "loss_type":
                    advice = counterpart_advice([value] if isinstance(value, str) else value)
                raise ValueError(f"--{name} {value!r} is not honoured by f-DPO: {advice}")

    def _check(self) -> None:
        require_ranges(self)
        self.check_loss()

    def to_dict(self) -> dict[str, Any]:
        """Returns the options without secrets, which trackers write down."""
        return without_secrets(super().to_dict())

    def __getstate__(self) -> dict[str, Any]:
        """Returns the options without secrets: every checkpoint holds them."""
        return {"hub_token": None, **without_secrets(vars(self))}

    def __deepcopy__(self, memo: dict[int, Any]) -> FDPOConfig:
        """Returns a copy that keeps its secrets: it stays in memory."""
        copied = object.__new__(type(self))
        copied.__dict__.update(deepcopy(vars(self), memo))
        return copied
