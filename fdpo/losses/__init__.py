"""The f-DPO loss of preference pairs, preference losses, and loss names."""

from fdpo.losses.fdpo import LossOutput, PreferenceLoss, fdpo_loss
from fdpo.losses.names import LOSSES, loss_parameters, resolve_loss
from fdpo.losses.preference import PREFERENCES

__all__ = [
    "LOSSES",
    "PREFERENCES",
    "LossOutput",
    "PreferenceLoss",
    "fdpo_loss",
    "loss_parameters",
    "resolve_loss",
]
