"""Preference losses: functions of the margin between two rewards."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

Preference = Callable[..., Tensor]


def smoothed(loss: Callable[[Tensor], Tensor]) -> Preference:
    """Gives a loss of the margin its second argument, the share of flipped labels."""

    @wraps(loss)
    def with_label_smoothing(margin: Tensor, label_smoothing: float = 0.0) -> Tensor:
        if label_smoothing == 0:
            return loss(margin)
        return (1 - label_smoothing) * loss(margin) + label_smoothing * loss(-margin)

    return with_label_smoothing


@smoothed
def logistic(margin: Tensor) -> Tensor:
    r""":math:`-\log\sigma(m)`, of DPO; least at :math:`\text{logit}\,p`, with smoothing (cDPO) at
    :math:`\text{logit}((1-\epsilon)p + \epsilon(1-p))`."""
    return -logsigmoid(margin)  # softplus(-m) turns linear at 20, an error of 2e-9


def robust(margin: Tensor, label_smoothing: float = 0.0) -> Tensor:
    r""":math:`((1-\epsilon)\phi(m) - \epsilon\phi(-m))/(1-2\epsilon)` with logistic :math:`\phi`.

    Unbiased if a share :math:`\epsilon` of labels is flipped: on such data least at the logit of
    the clean :math:`p`. Unbounded below. (Chowdhury et al., 2024, https://arxiv.org/abs/2403.00409)
    """
    flipped = label_smoothing * logistic(-margin)
    return ((1 - label_smoothing) * logistic(margin) - flipped) / (1 - 2 * label_smoothing)


@smoothed
def hinge(margin: Tensor) -> Tensor:
    r""":math:`\max(0, 1-m)`, of SLiC; least at the sign of :math:`2p-1`."""
    return torch.relu(1 - margin)


@smoothed
def squared(margin: Tensor) -> Tensor:
    r""":math:`(m - 1/2)^2`, of IPO (in TRL over :math:`\beta^2`); least at :math:`p - 1/2`."""
    return (margin - 0.5).square()


@smoothed
def exponential(margin: Tensor) -> Tensor:
    r""":math:`e^{-m}`, a straight line below -10; least at half of :math:`\text{logit}\,p`."""
    bounded = margin.clamp(min=-10)
    return torch.exp(-bounded) * (1 - (margin - bounded))


@smoothed
def truncated_quadratic(margin: Tensor) -> Tensor:
    r""":math:`\max(0, 1-m)^2`; least at :math:`2p-1`."""
    return torch.relu(1 - margin).square()


@smoothed
def savage(margin: Tensor) -> Tensor:
    r""":math:`\sigma(-m)^2`, bounded, so that it gives up on hopeless pairs; least at
    :math:`\text{logit}\,p`."""
    return torch.sigmoid(-margin).square()


#: The preference losses by name: functions of the margin and the label smoothing, elementwise.
PREFERENCES: dict[str, Preference] = {
    "logistic": logistic,
    "robust": robust,
    "hinge": hinge,
    "squared": squared,
    "exponential": exponential,
    "truncated_quadratic": truncated_quadratic,
    "savage": savage,
}
