"""Losses: the f-DPO loss of pairs, preference losses, and the names by which losses are chosen."""

from fdpo.losses.fdpo import LossOutput, fdpo_loss
from fdpo.losses.names import LOSSES, loss_parameters, resolve_loss
from fdpo.losses.preference import PREFERENCES

__all__ = [
    "LOSSES",
    "PREFERENCES",
    "LossOutput",
    "fdpo_loss",
    "loss_parameters",
    "resolve_loss",
]
