r"""The divergences of the library, each with its generator, link, slope and inverse link.

:mod:`fdpo.divergences` states the formalism. The code evaluates links in the log domain, in forms
that keep their digits: where it differs from the equation of the docstring, it is the same function
without cancellation or overflow.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from fdpo.divergences.base import Divergence, parameters
from fdpo.divergences.numerics import (
    invert_expm1_plus_identity,
    is_number,
    logsigmoid_difference,
)
from fdpo.spelling import did_you_mean

LOG_2 = math.log(2)


@final
@dataclass(frozen=True)
class ReverseKL(Divergence):
    r"""Reverse KL, which gives DPO: :math:`f = u \log u`, :math:`g = \ell`, :math:`w = 1`."""

    name = "reverse_kl"

    def _f(self, ratio: Tensor) -> Tensor:
        return torch.xlogy(ratio, ratio)

    def _link(self, log_ratio: Tensor) -> Tensor:
        return log_ratio.clone()

    def _slope(self, log_ratio: Tensor) -> Tensor:
        return torch.ones_like(log_ratio)

    def _inverse_link(self, value: Tensor) -> Tensor:
        return value.clone()


class _Power(Divergence):
    r"""A multiple :math:`c f_\alpha` of an :math:`\alpha`-divergence. Abstract."""

    alpha: float
    scale: float = 1.0

    @property
    def exact(self) -> bool:
        return self.alpha >= 0

    def _f(self, ratio: Tensor) -> Tensor:
        alpha, log_ratio = self.alpha, ratio.log()
        if alpha == 1:
            return self.scale * (ratio - 1 - log_ratio)
        if alpha >= 0.5:
            power = torch.expm1((1 - alpha) * log_ratio) / (1 - alpha)
            return self.scale / alpha * (ratio - 1 - power)
        product = torch.where(ratio == 0, 0, ratio * _power_link(log_ratio, alpha))
        return self.scale / (1 - alpha) * (product - (ratio - 1))

    def _link(self, log_ratio: Tensor) -> Tensor:
        return self.scale * _power_link(log_ratio, self.alpha)

    def _slope(self, log_ratio: Tensor) -> Tensor:
        return self.scale * torch.exp(-self.alpha * log_ratio)

    def _inverse_link(self, value: Tensor) -> Tensor:
        if abs(self.alpha) < 1e-20:
            return value / self.scale
        # the clamp gives values outside the range of g an infinite inverse
        power = (-self.alpha * (value / self.scale)).clamp(min=-1)
        return -torch.log1p(power) / self.alpha

    def _difference(self, a: Tensor, b: Tensor) -> Tensor:
        return self.scale * _power_difference(a, b, self.alpha)


def _power_link(log_ratio: Tensor, alpha: float) -> Tensor:
    if abs(alpha) < 1e-20:  # the limit, reached long before the quotient underflows
        return log_ratio.clone()
    return -torch.expm1(-alpha * log_ratio) / alpha


def _power_difference(a: Tensor, b: Tensor, alpha: float) -> Tensor:
    # |e^{-αb} - e^{-αa}|/|α| = e^{-αc} (1 - e^{-|α||a-b|})/|α|, where c has the larger power
    steeper = torch.minimum(a, b) if alpha > 0 else torch.maximum(a, b)
    rise = torch.exp(-alpha * steeper) * _power_link((a - b).abs(), abs(alpha))
    return torch.where(a == b, 0, torch.sign(a - b) * rise)


@final
@dataclass(frozen=True)
class Alpha(_Power):
    r"""α-divergence: :math:`f = (u^{1-\alpha} - (1-\alpha)u - \alpha)/(\alpha(\alpha-1))`.

    :math:`g = (1 - e^{-\alpha\ell})/\alpha`, :math:`w = e^{-\alpha\ell}`. It is the reverse KL for
    :math:`\alpha = 0`, the forward KL for 1, and not exact below 0.

    Arguments:
        alpha: :math:`\alpha`, any finite number, in the convention of the paper (see
            :func:`alpha_from_trl`).
    """

    name = "alpha"
    alpha: float = 0.5

    def __post_init__(self) -> None:
        if not (is_number(self.alpha) and math.isfinite(self.alpha)):
            raise ValueError(f"alpha must be a finite number, got {self.alpha!r}")


@final
@dataclass(frozen=True)
class ForwardKL(_Power):
    r"""Forward KL: :math:`f = -\log u`, :math:`g = 1 - e^{-\ell}`, :math:`w = e^{-\ell}`."""

    name = "forward_kl"
    alpha = 1.0

    def _f(self, ratio: Tensor) -> Tensor:
        return -ratio.log()


@final
@dataclass(frozen=True)
class SquaredHellinger(_Power):
    r"""Squared Hellinger: :math:`f = (\sqrt u - 1)^2`.

    :math:`g = 1 - e^{-\ell/2}`, :math:`w = e^{-\ell/2}/2`.
    """

    name = "squared_hellinger"
    alpha = 0.5
    scale = 0.5


@final
@dataclass(frozen=True)
class NeymanChi2(_Power):
    r"""Neyman :math:`\chi^2`: :math:`f = (1-u)^2/u`.

    :math:`g = 1 - e^{-2\ell}`, :math:`w = 2e^{-2\ell}`.
    """

    name = "neyman_chi2"
    alpha = 2.0
    scale = 2.0


@final
@dataclass(frozen=True)
class PearsonChi2(_Power):
    r"""Pearson :math:`\chi^2`: :math:`f = (u-1)^2`, :math:`g = 2(e^\ell - 1)`, :math:`w = 2e^\ell`.

    Not exact: f-DPO has the right optimum only while :math:`E_\text{ref}[r] - \min r < 2\beta`.
    """

    name = "pearson_chi2"
    alpha = -1.0
    scale = 2.0


@final
@dataclass(frozen=True)
class Jeffreys(Divergence):
    r"""Jeffreys divergence, the sum of both KLs: :math:`f = (u-1)\log u`.

    :math:`g = \ell + 1 - e^{-\ell}`, :math:`w = 1 + e^{-\ell}`.
    """

    name = "jeffreys"

    def _f(self, ratio: Tensor) -> Tensor:
        return (ratio - 1) * ratio.log()

    def _link(self, log_ratio: Tensor) -> Tensor:
        return log_ratio - torch.expm1(-log_ratio)

    def _slope(self, log_ratio: Tensor) -> Tensor:
        return 1 + torch.exp(-log_ratio)

    def _inverse_link(self, value: Tensor) -> Tensor:
        return -invert_expm1_plus_identity(-value)  # g(ℓ) = -chi2_kl's at -ℓ

    def _difference(self, a: Tensor, b: Tensor) -> Tensor:
        return (a - b) + _power_difference(a, b, 1.0)


@final
@dataclass(frozen=True)
class Chi2KL(Divergence):
    r"""Half of Pearson's plus the reverse KL, as in χPO: :math:`f = (u-1)^2/2 + u\log u`.

    :math:`g = e^\ell - 1 + \ell`, :math:`w = e^\ell + 1`.
    """

    name = "chi2_kl"

    def _f(self, ratio: Tensor) -> Tensor:
        return (ratio - 1).square() / 2 + torch.xlogy(ratio, ratio)

    def _link(self, log_ratio: Tensor) -> Tensor:
        return torch.expm1(log_ratio) + log_ratio

    def _slope(self, log_ratio: Tensor) -> Tensor:
        return torch.exp(log_ratio) + 1

    def _inverse_link(self, value: Tensor) -> Tensor:
        return invert_expm1_plus_identity(value)

    def _difference(self, a: Tensor, b: Tensor) -> Tensor:
        return (a - b) + _power_difference(a, b, -1.0)


@final
@dataclass(frozen=True)
class JS(Divergence):
    r"""Twice the Jensen-Shannon divergence: :math:`f = u\log u - (u+1)\log\frac{u+1}{2}`.

    :math:`g = \log 2 + \log\sigma(\ell)`, :math:`w = \sigma(-\ell)`.
    """

    name = "js"

    def _f(self, ratio: Tensor) -> Tensor:
        return torch.xlogy(ratio, 2 * (ratio / (ratio + 1))) - ((ratio + 1) / 2).log()

    def _link(self, log_ratio: Tensor) -> Tensor:
        return log_ratio.clamp(max=0) - torch.log1p(torch.expm1(-log_ratio.abs()) / 2)

    def _slope(self, log_ratio: Tensor) -> Tensor:
        return torch.sigmoid(-log_ratio)

    def _inverse_link(self, value: Tensor) -> Tensor:
        inside = value - torch.log1p(-torch.expm1(value))
        return torch.where(value >= LOG_2, torch.inf, inside)

    def _difference(self, a: Tensor, b: Tensor) -> Tensor:
        return logsigmoid_difference(a, b, 0.0)


@final
@dataclass(frozen=True)
class SkewJS(Divergence):
    r"""Skewed Jensen-Shannon divergence: :math:`f = tu\log(u/s) - (1-t)\log s`, where
    :math:`s = tu + 1 - t`.

    :math:`g = -t\log(t + (1-t)e^{-\ell})`, :math:`w = t\,\sigma(\log\frac{1-t}{t} - \ell)`.

    Arguments:
        t: The policy's share of the mixture, :math:`0 < t < 1`; one half gives half of ``js``.
    """

    name = "skew_js"
    t: float = 0.5

    def __post_init__(self) -> None:
        if not (is_number(self.t) and 0 < self.t < 1):
            raise ValueError(f"t must lie between 0 and 1, both excluded, got {self.t!r}")

    @property
    def shift(self) -> float:
        r""":math:`\log\frac{1-t}{t}`; the link is :math:`t` times that of ``js``, shifted by it."""
        return math.log1p(-self.t) - math.log(self.t)

    def _f(self, ratio: Tensor) -> Tensor:
        mean = self.t * ratio + (1 - self.t)
        return self.t * torch.xlogy(ratio, ratio / mean) - (1 - self.t) * mean.log()

    def _link(self, log_ratio: Tensor) -> Tensor:
        t = self.t
        rise = (1 - t) * torch.expm1(-log_ratio)
        right = torch.where(rise > -0.5, rise.log1p(), (t + (1 - t) * torch.exp(-log_ratio)).log())
        fall = t * torch.expm1(log_ratio)
        left = torch.where(fall > -0.5, fall.log1p(), (1 - t + t * torch.exp(log_ratio)).log())
        return t * torch.where(log_ratio > -20, -right, log_ratio - left)

    def _slope(self, log_ratio: Tensor) -> Tensor:
        return self.t * torch.sigmoid(self.shift - log_ratio)

    def _inverse_link(self, value: Tensor) -> Tensor:
        scaled = value / self.t
        inside = scaled - torch.log1p(-self.t / (1 - self.t) * torch.expm1(scaled))
        return torch.where(value >= -self.t * math.log(self.t), torch.inf, inside)

    def _difference(self, a: Tensor, b: Tensor) -> Tensor:
        return self.t * logsigmoid_difference(a, b, self.shift)


#: The divergences by name. A class that is added here works in losses, programs and tests.
DIVERGENCES: dict[str, type[Divergence]] = {
    kind.name: kind
    for kind in (
        ReverseKL,
        ForwardKL,
        Alpha,
        JS,
        SkewJS,
        Jeffreys,
        SquaredHellinger,
        NeymanChi2,
        Chi2KL,
        PearsonChi2,
    )
}

#: Names of the total variation, which cannot be trained with: its link is a step.
NO_LINK = ("total_variation", "tv", "tvd")


#: Other names of divergences, which ``--loss`` takes too: name -> key of :data:`DIVERGENCES`.
ALIASES = {"sigmoid": "reverse_kl", "jsd": "js", "fkl": "forward_kl"}

#: Names of other programs -> ours, for suggestions.
OTHER_NAMES = {
    "dpo": ("sigmoid", "reverse_kl"),
    "kl": ("reverse_kl", "forward_kl"),
    "rkl": ("reverse_kl",),
    "js_divergence": ("js",),
    "alpha_divergence": ("alpha",),
    "slic": ("hinge",),
}


def get_divergence(name: str, **values: Any) -> Divergence:
    """Returns a divergence by name.

    Arguments:
        name: A key of :data:`DIVERGENCES`, or of :data:`ALIASES`.
        **values: Parameters of the divergence: ``alpha`` for ``alpha``, ``t`` for ``skew_js``.

    Raises:
        ValueError: If there is no such divergence or parameter, or a value is not allowed.

    Example:
        >>> print(0.7 * get_divergence("js") + get_divergence("alpha", alpha=0.3))
        0.7*js + alpha(0.3)
    """
    if name in NO_LINK:
        raise ValueError(f"{name}: its link is a step, without a slope to train on; use js")
    name = ALIASES.get(name, name)
    if name not in DIVERGENCES:
        close = did_you_mean(name, [*ALIASES, *DIVERGENCES], OTHER_NAMES)
        choices = ", ".join(DIVERGENCES)
        raise ValueError(f"unknown divergence {name!r}{close}; choose from {choices}")
    known = parameters(DIVERGENCES[name])
    for parameter in values.keys() - set(known):
        takers = [
            f"{d} takes {', '.join(p)}" for d in DIVERGENCES if (p := parameters(DIVERGENCES[d]))
        ]
        raise ValueError(f"{name} takes no parameter {parameter!r} ({'; '.join(takers)})")
    return DIVERGENCES[name](**values)


def alpha_from_trl(coefficient: float, *, legacy: bool = False) -> float:
    r"""Converts TRL's ``f_alpha_divergence_coef`` to :math:`\alpha`.

    Arguments:
        coefficient: The coefficient of TRL ≥ 0.29, which is :math:`1 - \alpha`.
        legacy: Whether it is that of TRL ≤ 0.28, ms-swift, Unsloth or LLaMA-Factory, which is
            :math:`\alpha` itself.

    Example:
        >>> alpha_from_trl(0.75), alpha_from_trl(0.75, legacy=True)
        (0.25, 0.75)
    """
    return coefficient if legacy else 1 - coefficient


def alpha_to_trl(alpha: float, *, legacy: bool = False) -> float:
    """Converts alpha to TRL's ``f_alpha_divergence_coef``; inverts :func:`alpha_from_trl`."""
    return alpha if legacy else 1 - alpha
