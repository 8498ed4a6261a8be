"""fdpo: direct preference optimisation with any f-divergence.

Importing it loads torch and nothing heavier; the trainers are in ``fdpo.llm`` and
``fdpo.diffusion``.
"""

from fdpo.divergences import DIVERGENCES, alpha_from_trl, alpha_to_trl, get_divergence
from fdpo.generators import divergence_from_generator
from fdpo.links import Divergence, TailedLink, tailed
from fdpo.losses import LOSSES, PREFERENCES, FDPOLoss, fdpo_loss, resolve_loss

__version__ = "0.1.0"

__all__ = [
    "DIVERGENCES",
    "LOSSES",
    "PREFERENCES",
    "Divergence",
    "FDPOLoss",
    "TailedLink",
    "alpha_from_trl",
    "alpha_to_trl",
    "divergence_from_generator",
    "fdpo_loss",
    "get_divergence",
    "resolve_loss",
    "tailed",
]
