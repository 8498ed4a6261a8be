r"""How often a policy prefers what was chosen, and whether it is as sure as it is right.

The margin :math:`m` of a pair says that chosen is better than rejected with probability
:math:`\sigma(m)`; a policy is calibrated if, among pairs for which it says 70 %, it is right in 70.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from fdpo.estimators.estimate import Estimate, flat, mean

BINS = 15
"""Bins of the calibration error."""


class Calibration(NamedTuple):
    """What :func:`calibration` found.

    Arguments:
        accuracy: The share of pairs whose margin is above 0; those at 0 count half.
        nll: The mean of :math:`-\\log\\sigma(m)`, in nats.
        brier: The mean of :math:`(1 - \\sigma(m))^2`.
        ece: The expected calibration error, between 0 and 1. It has no standard error, and its
            expectation is above 0 also for a calibrated policy, the more the fewer the pairs.
    """

    accuracy: Estimate
    nll: Estimate
    brier: Estimate
    ece: float

    def metrics(self, prefix: str = "") -> dict[str, float]:
        """Returns them under flat keys, standard errors as ``*_se``."""
        means = {"accuracy": self.accuracy, "nll": self.nll, "brier": self.brier}
        return flat(means, prefix) | {f"{prefix}ece": self.ece}


def right(margins: Tensor) -> Tensor:
    """Returns which pairs a policy has right, 1 or 0, and one half where it has no opinion."""
    return (margins > 0).double() + (margins == 0).double() / 2


def calibration(
    margins: Tensor, prompts: Sequence[Hashable] | None = None, *, bins: int = BINS
) -> Calibration:
    r"""Compares :math:`\sigma(m)` of held-out pairs with how often it is right.

    The calibration error is torchmetrics' ``BinaryCalibrationError``: the mean over bins, weighted
    by their pairs, of the gap between mean probability and mean label. If chosen always came first
    all labels would be 1; so each pair counts in both orders, which for equal models gives 0.

    Arguments:
        margins: :math:`m = \beta(g(\ell_w) - g(\ell_l))` of pairs, with shape :math:`(N)`.
        prompts: The prompt of each pair: pairs of one prompt are not independent.
        bins: Bins of equal width between 0 and 1.

    Raises:
        ValueError: If there is no pair, or a margin is NaN.
    """
    from torchmetrics.functional.classification import binary_calibration_error

    if margins.ndim != 1 or not len(margins):
        raise ValueError(f"margins must have shape (pairs,), got {tuple(margins.shape)}")
    if margins.isnan().any():
        raise ValueError(f"the margin of pair {int(margins.isnan().nonzero()[0])} is NaN")
    margins = margins.detach().double().cpu()
    probabilities = torch.cat([margins, -margins]).sigmoid()
    labels = torch.ones(len(margins), dtype=torch.long)
    labels = torch.cat([labels, 0 * labels])
    return Calibration(
        accuracy=mean(right(margins), prompts),
        nll=mean(-logsigmoid(margins), prompts),
        brier=mean((-margins).sigmoid().square(), prompts),
        ece=binary_calibration_error(probabilities, labels, n_bins=bins).item(),
    )
