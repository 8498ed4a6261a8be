"""Preference optimisation with any f-divergence.

``import fdpo`` loads torch and nothing heavier; the trainers load their libraries at first use.

Example:
    >>> import torch
    >>> divergence = get_divergence("alpha", alpha=0.5)
    >>> log_ratios = torch.tensor([0.5, -0.5])
    >>> fdpo_loss(log_ratios, -log_ratios, divergence, beta=1.0).losses
    tensor([0.3105, 1.3209])
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from fdpo.divergences.base import Divergence
from fdpo.divergences.from_generator import divergence_from_generator
from fdpo.divergences.members import DIVERGENCES, alpha_from_trl, alpha_to_trl, get_divergence
from fdpo.divergences.tails import TailedLink, tailed
from fdpo.losses.fdpo import LossOutput, PreferenceLoss, fdpo_loss
from fdpo.losses.names import LOSSES, resolve_loss
from fdpo.losses.preference import PREFERENCES

if TYPE_CHECKING:
    from fdpo.diffusion import DiffusionConfig as DiffusionConfig
    from fdpo.diffusion import DiffusionTrainer as DiffusionTrainer
    from fdpo.llm import FDPOConfig as FDPOConfig
    from fdpo.llm import FDPOTrainer as FDPOTrainer

__version__ = "0.1.0"

FDPOLoss = LossOutput  # its name in version 0.1

__all__ = [
    "DIVERGENCES",
    "LOSSES",
    "PREFERENCES",
    "Divergence",
    "FDPOLoss",
    "LossOutput",
    "PreferenceLoss",
    "TailedLink",
    "alpha_from_trl",
    "alpha_to_trl",
    "divergence_from_generator",
    "fdpo_loss",
    "get_divergence",
    "resolve_loss",
    "tailed",
]

_LAZY = {
    "FDPOConfig": "fdpo.llm",
    "FDPOTrainer": "fdpo.llm",
    "DiffusionConfig": "fdpo.diffusion",
    "DiffusionTrainer": "fdpo.diffusion",
}
"""Names whose modules import TRL or diffusers, which takes seconds."""


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_LAZY])
