r"""The f-DPO loss of pairs, and the names by which losses are chosen.

With log-ratios :math:`\ell_w, \ell_l` of the chosen and the rejected completion, and the link
:math:`g` of a divergence (:mod:`fdpo.divergences`), the implicit reward is :math:`\beta g(\ell)`,

.. math::
    m = \beta (g(\ell_w) - g(\ell_l)), \qquad L = \phi(m),

where :math:`\phi` is a preference loss; :math:`\phi(m) = -\log\sigma(m)` fits the Bradley-Terry
model. With a share :math:`\epsilon` of labels flipped, label smoothing makes it
:math:`(1-\epsilon)\phi(m) + \epsilon\phi(-m)`.

Where the chosen one is preferred with probability :math:`p`, the loss is least at a margin that
each preference loss states. Only :math:`\text{logit}\,p` (logistic, savage, robust) makes
f-DPO the optimum of reward less :math:`\beta D_f`; exponential has it at :math:`2\beta`, the others
at no :math:`\beta`.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

from fdpo.divergences.base import Divergence
from fdpo.divergences.tails import TailedLink, tailed
from fdpo.losses.preference import PREFERENCES


@dataclass(frozen=True)
class LossOutput:
    r"""What :func:`fdpo_loss` returns. Everything but ``losses`` is detached.

    Attributes:
        losses: :math:`\phi(m)`, with shape :math:`(B)`.
        chosen_rewards: :math:`\beta g(\ell_w)`, with shape :math:`(B)`.
        rejected_rewards: :math:`\beta g(\ell_l)`, with shape :math:`(B)`.
        margins: :math:`m`, with shape :math:`(B)`.
        chosen_slopes: :math:`w(\ell_w)`, with shape :math:`(B)`.
        rejected_slopes: :math:`w(\ell_l)`, with shape :math:`(B)`.
        in_tail: Whether a log-ratio of the pair lies on a straight tail, with shape :math:`(B)`.
    """

    losses: Tensor
    chosen_rewards: Tensor
    rejected_rewards: Tensor
    margins: Tensor
    chosen_slopes: Tensor
    rejected_slopes: Tensor
    in_tail: Tensor

    @property
    def tail_fraction(self) -> Tensor:
        """The share of pairs in the tail, a scalar."""
        return self.in_tail.float().mean()


def fdpo_loss(
    chosen_log_ratios: Tensor,
    rejected_log_ratios: Tensor,
    divergence: Divergence,
    beta: float = 0.1,
    preference: str = "logistic",
    label_smoothing: float = 0.0,
    tail: float | None = 10.0,
    match_curvature: bool = False,
    loser_gradient: float = 1.0,
) -> LossOutput:
    r"""Computes the f-DPO loss of each pair; the caller takes the mean.

    Arguments:
        chosen_log_ratios: :math:`\ell_w = \log\pi_\theta/\pi_\text{ref}` of the chosen completions
            in nats, summed in float32, with shape :math:`(B)`. Half precision is computed in
            float32.
        rejected_log_ratios: :math:`\ell_l`, with shape :math:`(B)`.
        divergence: What keeps the policy near its reference.
        beta: :math:`\beta > 0`. The same :math:`\beta` is not the same strength for two
            divergences, unless their curvature is matched.
        preference: The loss of the margin, one of :data:`PREFERENCES`.
        label_smoothing: The share of flipped labels to expect, :math:`0 \leq \epsilon < 1/2`.
        tail: Where the link's slope exceeds :math:`e^\tau` times that at 0, it goes on as a
            straight line (see :func:`fdpo.tailed`). ``None`` for no tail.
        match_curvature: Whether to divide the link by :math:`f''(1)`, so that training starts with
            the gradient of DPO whatever the divergence.
        loser_gradient: :math:`\lambda \in [0, 1]`, the share of the gradient through
            :math:`\ell_l` that is kept; the loss has its value at any :math:`\lambda`. Below 1 the
            update follows :math:`w(\ell_w) \nabla\ell_w - \lambda w(\ell_l) \nabla\ell_l`, which is
            the gradient of no loss: it learns to write the chosen rather than to avoid the
            rejected, and stops once the margin is wide, but the optimum of the reward less
            :math:`\beta D_f` is given up, by the more the smaller :math:`\lambda`. For models whose
            losers are more easily spoilt than their winners are learnt, as in diffusion.

    Raises:
        ValueError: If an option is out of its range or the shapes differ.
    """
    _check(chosen_log_ratios, rejected_log_ratios, beta, preference, label_smoothing)
    if not 0 <= loser_gradient <= 1:
        raise ValueError(f"loser_gradient must lie in [0, 1], got {loser_gradient}")
    if not divergence.exact:
        warnings.warn(_inexact(divergence), stacklevel=2)
    link = _tailed_link(divergence, tail, match_curvature)
    followed = rejected_log_ratios
    if loser_gradient != 1:
        followed = followed.detach().lerp(followed, loser_gradient)
    margins = beta * link.difference(chosen_log_ratios, followed)
    losses = PREFERENCES[preference](margins, label_smoothing)
    with torch.no_grad():
        return LossOutput(
            losses=losses,
            chosen_rewards=beta * link(chosen_log_ratios),
            rejected_rewards=beta * link(rejected_log_ratios),
            margins=margins.detach(),
            chosen_slopes=link.slope(chosen_log_ratios),
            rejected_slopes=link.slope(rejected_log_ratios),
            in_tail=link.in_tail(chosen_log_ratios) | link.in_tail(rejected_log_ratios),
        )


def _tailed_link(divergence: Divergence, tail: float | None, match_curvature: bool) -> TailedLink:
    if match_curvature:
        divergence = (1 / divergence.curvature) * divergence
    return tailed(divergence, tail)


def _check(
    chosen: Tensor, rejected: Tensor, beta: float, preference: str, label_smoothing: float
) -> None:
    if chosen.shape != rejected.shape:
        raise ValueError(
            "chosen and rejected log-ratios must have one shape, got "
            f"{tuple(chosen.shape)} and {tuple(rejected.shape)}"
        )
    if not 0 < beta < math.inf:
        raise ValueError(f"beta must be finite and above 0, got {beta}")
    if preference not in PREFERENCES:
        raise ValueError(f"no preference loss {preference!r}; there are {', '.join(PREFERENCES)}")
    if not 0 <= label_smoothing < 0.5:
        raise ValueError(f"label_smoothing must lie in [0, 0.5), got {label_smoothing}")


def _inexact(divergence: Divergence) -> str:
    return (
        f"{divergence} is not exact (f'(0) is finite): f-DPO finds the regularised optimum only "
        "while that gives every completion a probability above 0 (for pearson_chi2: while the "
        "reference's mean reward exceeds the least reward by less than 2 beta)"
    )
