"""Preference optimisation with any f-divergence.

``import fdpo`` loads torch and nothing heavier; the trainers are in `fdpo.llm` and
`fdpo.diffusion`.

Example:
    >>> import torch
    >>> divergence = get_divergence("alpha", alpha=0.5)
    >>> log_ratios = torch.tensor([0.5, -0.5])
    >>> fdpo_loss(log_ratios, -log_ratios, divergence, beta=1.0).losses
    tensor([0.3105, 1.3209])
"""

from fdpo.divergences.base import Divergence
from fdpo.divergences.from_generator import divergence_from_generator
from fdpo.divergences.members import DIVERGENCES, alpha_from_trl, alpha_to_trl, get_divergence
from fdpo.divergences.tails import TailedLink, tailed
from fdpo.losses.fdpo import LossOutput, fdpo_loss
from fdpo.losses.names import LOSSES, resolve_loss
from fdpo.losses.preference import PREFERENCES

__version__ = "0.1.0"

FDPOLoss = LossOutput  # its name in version 0.1

__all__ = [
    "DIVERGENCES",
    "LOSSES",
    "PREFERENCES",
    "Divergence",
    "FDPOLoss",
    "LossOutput",
    "TailedLink",
    "alpha_from_trl",
    "alpha_to_trl",
    "divergence_from_generator",
    "fdpo_loss",
    "get_divergence",
    "resolve_loss",
    "tailed",
]
