r"""Preference losses :math:`\phi` of the margin :math:`m` between two rewards.

:math:`\phi(m) = -\log\sigma(m)` fits the Bradley-Terry model. With a share :math:`\epsilon` of
labels flipped, label smoothing makes a loss :math:`(1-\epsilon)\phi(m) + \epsilon\phi(-m)`.

Where the chosen completion is preferred with probability :math:`p`, each loss has its minimum at
the margin that its docstring states. Only :math:`\text{logit}\,p` (logistic, savage, robust) makes
f-DPO the optimum of the reward less :math:`\beta D_f`; the exponential loss has that optimum at
:math:`2\beta`, the others at no :math:`\beta`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

Preference = Callable[..., Tensor]


def smoothed(loss: Callable[[Tensor], Tensor]) -> Preference:
    """Adds label smoothing to a loss of the margin, as its second argument."""

    @wraps(loss)
    def with_label_smoothing(margin: Tensor, label_smoothing: float = 0.0) -> Tensor:
        if label_smoothing == 0:
            return loss(margin)
        return (1 - label_smoothing) * loss(margin) + label_smoothing * loss(-margin)

    return with_label_smoothing


@smoothed
def logistic(margin: Tensor) -> Tensor:
    r"""Computes :math:`-\log\sigma(m)`, the loss of DPO.

    Its minimum is at :math:`\text{logit}\,p`, with label smoothing (cDPO) at
    :math:`\text{logit}((1-\epsilon)p + \epsilon(1-p))`.
    """
    return -logsigmoid(margin)  # softplus(-m) turns linear at 20, an error of 2e-9


def robust(margin: Tensor, label_smoothing: float = 0.0) -> Tensor:
    r"""Computes :math:`((1-\epsilon)\phi(m) - \epsilon\phi(-m))/(1-2\epsilon)`.

    With the logistic :math:`\phi` it is unbiased if a share :math:`\epsilon` of labels is flipped:
    on such data its minimum is at the logit of the clean :math:`p`. It is unbounded below.
    (Chowdhury et al., 2024, https://arxiv.org/abs/2403.00409)
    """
    flipped = label_smoothing * logistic(-margin)
    return ((1 - label_smoothing) * logistic(margin) - flipped) / (1 - 2 * label_smoothing)


@smoothed
def hinge(margin: Tensor) -> Tensor:
    r"""Computes :math:`\max(0, 1-m)`, the loss of SLiC; minimum at the sign of :math:`2p-1`."""
    return torch.relu(1 - margin)


@smoothed
def squared(margin: Tensor) -> Tensor:
    r"""Computes :math:`(m - 1/2)^2`, the loss of IPO; minimum at :math:`p - 1/2`.

    TRL divides it by :math:`\beta^2`.
    """
    return (margin - 0.5).square()


@smoothed
def exponential(margin: Tensor) -> Tensor:
    r"""Computes :math:`e^{-m}`, straight below -10; minimum at :math:`\text{logit}(p)/2`."""
    bounded = margin.clamp(min=-10)
    return torch.exp(-bounded) * (1 - (margin - bounded))


@smoothed
def truncated_quadratic(margin: Tensor) -> Tensor:
    r"""Computes :math:`\max(0, 1-m)^2`; minimum at :math:`2p-1`."""
    return torch.relu(1 - margin).square()


@smoothed
def savage(margin: Tensor) -> Tensor:
    r"""Computes :math:`\sigma(-m)^2`; minimum at :math:`\text{logit}\,p`.

    It is bounded, so it gives up on hopeless pairs.
    """
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
