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

import ast
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from fdpo.divergences import DIVERGENCES, NO_LINK, get_divergence
from fdpo.generators import divergence_from_generator
from fdpo.links import Divergence, TailedLink, parameters, tailed
from fdpo.plugins import imported

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


@dataclass(frozen=True)
class FDPOLoss:
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
) -> FDPOLoss:
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
        return FDPOLoss(
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


#: The names that ``--loss`` takes, besides mixtures and your own: name -> (divergence, preference).
LOSSES: dict[str, tuple[str, str]] = {
    "sigmoid": ("reverse_kl", "logistic"),
    "hinge": ("reverse_kl", "hinge"),
    "ipo": ("reverse_kl", "squared"),
    "jsd": ("js", "logistic"),
    "fkl": ("forward_kl", "logistic"),
    **{name: (name, "logistic") for name in DIVERGENCES},
}

_FORMS = "a mixture ('0.7*js + 0.3*alpha(0.5)') or your own ('package.module:attribute')"


def resolve_loss(name: str, alpha: float | None = None, **values: Any) -> tuple[Divergence, str]:
    """Returns the divergence and the name of the preference loss that a ``--loss`` name means.

    Arguments:
        name: One of :data:`LOSSES`; a mixture such as ``'0.7*js + 0.3*reverse_kl'``, where
            parameters are written as ``alpha(0.3)`` or ``skew_js(t=0.2)``; or
            ``'package.module:attribute'``, which names a divergence or a generator :math:`f`.
        alpha: The parameter of the loss ``alpha``; ``None`` where it is not given.
        **values: Other parameters of the divergence, such as ``t`` of ``skew_js``.

    Raises:
        ValueError: If there is no such loss or parameter, or a value is not allowed.
    """
    if alpha is not None:
        values["alpha"] = alpha
    if name in LOSSES:
        divergence, preference = LOSSES[name]
        return get_divergence(divergence, **values), preference
    if name.isidentifier():
        return _named(name, values), "logistic"
    if values:
        raise ValueError(f"loss {name!r} takes no parameters beside it, got {', '.join(values)}")
    return (_own(name) if ":" in name else _mixture(name)), "logistic"


def loss_parameters(name: str) -> tuple[str, ...]:
    """Returns the parameters that :func:`resolve_loss` takes beside a name: none with most."""
    divergence = DIVERGENCES.get(LOSSES.get(name, (name,))[0])
    return tuple(parameters(divergence)) if divergence else ()


def _named(name: str, values: dict[str, Any]) -> Divergence:
    if name.endswith("_norm"):
        raise ValueError(
            f"loss {name!r} divides log-ratios by length: no theorem covers that for a divergence "
            "other than the reverse KL, and there is no such loss here; use sigmoid"
        )
    if name in DIVERGENCES or name in NO_LINK:
        return get_divergence(name, **values)
    raise ValueError(f"no loss {name!r}; there are {', '.join(LOSSES)}, {_FORMS}")


def _mixture(text: str) -> Divergence:
    try:
        return _evaluate(ast.parse(text.strip(), mode="eval").body)
    except SyntaxError as error:
        choices = f"give one of {', '.join(LOSSES)}, {_FORMS}"
        raise ValueError(f"cannot read loss {text!r} ({error.msg}): {choices}") from None


def _evaluate(node: ast.expr) -> Divergence:
    match node:
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return _evaluate(left) + _evaluate(right)
        case ast.BinOp(left=left, op=ast.Mult(), right=right):
            return _number(left) * _evaluate(right)
        case ast.Name(id=name):
            return _component(name, {})
        case ast.Call(func=ast.Name(id=name), args=values, keywords=named):
            known = parameters(DIVERGENCES[name]) if name in DIVERGENCES else ()
            if len(values) <= len(known):
                pairs = [*zip(known, values, strict=False), *((str(k.arg), k.value) for k in named)]
                return _component(name, {key: _number(value) for key, value in pairs})
    raise SyntaxError(f"{ast.unparse(node)} is no divergence")


def _component(name: str, values: dict[str, Any]) -> Divergence:
    divergence, preference = resolve_loss(name, **values)
    if preference != "logistic":
        raise SyntaxError(f"{name} is no divergence, but a preference loss")
    return divergence


def _number(node: ast.expr) -> float:
    try:
        return float(ast.literal_eval(node))
    except (ValueError, TypeError):
        raise SyntaxError(f"{ast.unparse(node)} is no number") from None


def _own(path: str) -> Divergence:
    value = imported(path, "loss")
    if isinstance(value, Divergence):
        return value
    if not callable(value) or isinstance(value, type):
        raise ValueError(f"loss {path} is neither a Divergence nor a function f, but {value!r}")
    return divergence_from_generator(value, name=path.rpartition(":")[2])
