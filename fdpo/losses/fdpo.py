r"""The f-DPO loss of preference pairs.

With log-ratios :math:`\ell_w, \ell_l` of the chosen and the rejected completion, and the link
:math:`g` of a divergence (:mod:`fdpo.divergences`), the implicit reward is :math:`\beta g(\ell)`,

.. math::
    m = \beta (g(\ell_w) - g(\ell_l)), \qquad L = \phi(m),

where :math:`m` is the margin and :math:`\phi` a preference loss (:mod:`fdpo.losses.preference`).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any, ParamSpec

import torch
from torch import Tensor, nn

from fdpo.divergences.base import Divergence
from fdpo.divergences.tails import TailedLink, check_tail, tailed
from fdpo.losses.names import as_divergence
from fdpo.losses.preference import PREFERENCES

P = ParamSpec("P")


@dataclass(frozen=True)
class LossOutput:
    r"""Losses, rewards and diagnostics of a batch of pairs. All but ``losses`` are detached.

    Attributes:
        losses: :math:`\phi(m)`, with shape :math:`(B)`.
        chosen_rewards: :math:`\beta g(\ell_w)`, with shape :math:`(B)`.
        rejected_rewards: :math:`\beta g(\ell_l)`, with shape :math:`(B)`.
        margins: :math:`m`, with shape :math:`(B)`.
        chosen_slopes: :math:`w(\ell_w)`, with shape :math:`(B)`.
        rejected_slopes: :math:`w(\ell_l)`, with shape :math:`(B)`.
        in_tail: Whether a log-ratio of the pair is on a straight tail, with shape :math:`(B)`.
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


def takes_log_ratios(function: Callable[P, LossOutput]) -> Callable[P, LossOutput]:
    """Raises a helpful `TypeError` for four log-probabilities, as other DPO losses take them."""

    @wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> LossOutput:
        if len(args) > 3 or any(isinstance(value, Tensor) for value in args[2:]):
            raise TypeError(
                "fdpo_loss takes log-ratios (policy less reference), a divergence, and options by "
                "keyword: fdpo_loss(policy_chosen - reference_chosen, policy_rejected - "
                'reference_rejected, "js", beta=0.1)'
            )
        return function(*args, **kwargs)

    return checked


@takes_log_ratios
def fdpo_loss(
    chosen_log_ratios: Tensor,
    rejected_log_ratios: Tensor,
    divergence: Divergence | str,
    *,
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
        divergence: The divergence that keeps the policy near its reference, or its name, a mixture
            or a plug-in as :func:`fdpo.resolve_loss` takes them.
        beta: :math:`\beta > 0`, the weight of the divergence. The same :math:`\beta` weighs two
            divergences alike only with ``match_curvature``.
        preference: The loss of the margin, a key of :data:`PREFERENCES`.
        label_smoothing: The share of flipped labels to expect, :math:`0 \leq \epsilon < 1/2`.
        tail: :math:`\tau`: where the slope of the link exceeds :math:`e^\tau` times that at 0, the
            link continues as a straight line (see :func:`fdpo.tailed`). ``None`` turns it off.
        match_curvature: Whether to divide the link by :math:`f''(1)`, so that training starts with
            the gradient of DPO whatever the divergence.
        loser_gradient: :math:`\lambda \in [0, 1]`, the share of the gradient through
            :math:`\ell_l` that is followed; the value of the loss does not depend on it. Below 1
            the update :math:`w(\ell_w) \nabla\ell_w - \lambda w(\ell_l) \nabla\ell_l` is the
            gradient of no loss. It learns to produce the chosen completion rather than to avoid the
            rejected one, and stops once the margin is wide, but it gives up the optimum of the
            reward less :math:`\beta D_f`, more so the smaller :math:`\lambda`. It is meant for
            models that spoil losers more easily than they learn winners, as in diffusion.

    Raises:
        ValueError: If an option is out of its range or the shapes differ.
        TypeError: If log-probabilities of policy and reference are given instead of log-ratios.

    Example:
        >>> import fdpo, torch
        >>> chosen = torch.tensor([0.5, -1.0], requires_grad=True)
        >>> rejected = torch.tensor([-0.5, -3.0], requires_grad=True)
        >>> out = fdpo.fdpo_loss(chosen, rejected, fdpo.get_divergence("js"), beta=0.1)
        >>> out.losses.mean().backward()
        >>> chosen.grad, rejected.grad  # -β σ(-m) w(ℓ_w) / 2 and β σ(-m) w(ℓ_l) / 2
        (tensor([-0.0092, -0.0167]), tensor([0.0152, 0.0218]))
    """
    divergence = as_divergence(divergence)
    if chosen_log_ratios.shape != rejected_log_ratios.shape:
        raise ValueError(
            "chosen and rejected log-ratios must have one shape, got "
            f"{tuple(chosen_log_ratios.shape)} and {tuple(rejected_log_ratios.shape)}"
        )
    check_options(
        beta=beta,
        preference=preference,
        label_smoothing=label_smoothing,
        tail=tail,
        loser_gradient=loser_gradient,
    )
    if not divergence.exact:
        warnings.warn(_inexact(divergence), stacklevel=3)  # above takes_log_ratios
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


class PreferenceLoss(nn.Module):
    """:func:`fdpo_loss` with its divergence and options as a module, which has no parameters.

    Arguments:
        divergence: As in :func:`fdpo_loss`.
        options: The other options of :func:`fdpo_loss`, checked here.

    Example:
        >>> import fdpo, torch
        >>> loss = fdpo.PreferenceLoss("js", beta=0.1)
        >>> loss
        PreferenceLoss(js, beta=0.1)
        >>> loss(torch.tensor([0.5]), torch.tensor([-0.5])).losses.mean()
        tensor(0.6685)
    """

    def __init__(self, divergence: Divergence | str, **options: Any) -> None:
        super().__init__()
        self.divergence, self.options = as_divergence(divergence), options
        empty = torch.empty(0)
        fdpo_loss(empty, empty, self.divergence, **options)  # raises the errors of wrong options

    def forward(self, chosen_log_ratios: Tensor, rejected_log_ratios: Tensor) -> LossOutput:
        """Computes the loss of each pair; the caller takes the mean of ``losses``."""
        return fdpo_loss(chosen_log_ratios, rejected_log_ratios, self.divergence, **self.options)

    def extra_repr(self) -> str:
        return ", ".join([str(self.divergence), *(f"{k}={v}" for k, v in self.options.items())])


def check_options(
    *,
    beta: float,
    preference: str,
    label_smoothing: float,
    tail: float | None,
    loser_gradient: float,
) -> None:
    """Raises `ValueError`, naming the option, if an option of :func:`fdpo_loss` is out of range."""
    if not 0 < beta < math.inf:
        raise ValueError(f"beta must be a finite number above 0, got {beta}")
    if preference not in PREFERENCES:
        raise ValueError(f"preference {preference!r}: choose from {', '.join(PREFERENCES)}")
    if not 0 <= label_smoothing < 0.5:
        raise ValueError(f"label_smoothing must lie in [0, 0.5), got {label_smoothing}")
    check_tail(tail)
    if not 0 <= loser_gradient <= 1:
        raise ValueError(f"loser_gradient must lie in [0, 1], got {loser_gradient}")


def _tailed_link(divergence: Divergence, tail: float | None, match_curvature: bool) -> TailedLink:
    if match_curvature:
        divergence = (1 / divergence.curvature) * divergence
    return tailed(divergence, tail)


def _inexact(divergence: Divergence) -> str:
    return (
        f"{divergence} is not exact (f'(0) is finite): f-DPO finds the regularised optimum only "
        "while that gives every completion a probability above 0 (for pearson_chi2: while the "
        "reference's mean reward exceeds the least reward by less than 2 beta)"
    )
