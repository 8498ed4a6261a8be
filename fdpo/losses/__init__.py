"""Losses: the f-DPO loss of pairs, preference losses, and the names by which losses are chosen."""

from fdpo.losses.fdpo import FDPOLoss, fdpo_loss
from fdpo.losses.names import LOSSES, loss_parameters, resolve_loss
from fdpo.losses.preference import PREFERENCES

__all__ = [
    "LOSSES",
    "PREFERENCES",
    "FDPOLoss",
    "fdpo_loss",
    "loss_parameters",
    "resolve_loss",
]
