r"""Accuracy and calibration on held-out preference pairs.

The margin :math:`m` of a pair predicts that chosen is better than rejected with probability
:math:`\sigma(m)`. A policy is calibrated if 70 % of the pairs for which it predicts 70 % are right.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from fdpo.estimators.estimate import Estimate, flat, mean

#: The number of bins of the calibration error.
BINS = 15


class Calibration(NamedTuple):
    r"""Accuracy, likelihood and calibration error of the margins of pairs.

    Arguments:
        accuracy: The share of pairs whose margin is above 0; those at 0 count half.
        nll: The mean of :math:`-\log\sigma(m)`, in nats.
        brier: The mean of :math:`(1 - \sigma(m))^2`.
        ece: The expected calibration error, between 0 and 1. It has no standard error. Even for a
            calibrated policy its expectation is above 0, more so the fewer the pairs.
    """

    accuracy: Estimate
    nll: Estimate
    brier: Estimate
    ece: float

    def metrics(self, prefix: str = "") -> dict[str, float]:
        """Returns the values under the keys of a metrics file, standard errors as ``*_se``."""
        means = {"accuracy": self.accuracy, "nll": self.nll, "brier": self.brier}
        return flat(means, prefix) | {f"{prefix}ece": self.ece}


def right(margins: Tensor) -> Tensor:
    """Returns 1 for the pairs that a policy ranks right, 0 for the others, one half for ties."""
    return (margins > 0).double() + (margins == 0).double() / 2


def calibration(
    margins: Tensor, prompts: Sequence[Hashable] | None = None, *, bins: int = BINS
) -> Calibration:
    r"""Compares the probabilities :math:`\sigma(m)` of held-out pairs with the share that is right.

    The calibration error is torchmetrics' ``BinaryCalibrationError``: the gap between the mean
    probability and the mean label of a bin, averaged over bins with their pairs as weights. If
    chosen always came first, all labels would be 1; so each pair counts in both orders, which gives
    0 for equal models.

    Arguments:
        margins: :math:`m = \beta(g(\ell_w) - g(\ell_l))` of pairs, with shape :math:`(N)`.
        prompts: The prompt of each pair: pairs of one prompt are not independent.
        bins: The number of bins, of equal width between 0 and 1.

    Raises:
        ValueError: If there is no pair, or a margin is NaN.

    Example:
        >>> margins = torch.tensor([2.0, 1.0, -0.5, 0.0])
        >>> calibration(margins).accuracy.value
        0.625
        >>> sorted(calibration(margins).metrics("pairs_"))[:3]
        ['pairs_accuracy', 'pairs_accuracy_se', 'pairs_brier']
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
