"""The options of an f-DPO loss, the same for every trainer."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from torch import Tensor

from fdpo.divergences.members import Divergence
from fdpo.losses.fdpo import LossOutput, fdpo_loss
from fdpo.losses.names import resolve_loss
from fdpo.losses.preference import PREFERENCES

#: What ``--loss`` on the command line discards of a preset: it was meant for the loss there.
RESETS = {"loss": ("alpha", "loss_args", "preference")}


def with_default(options: Any, name: str, default: Any) -> Any:
    """Returns a field of a dataclass with another default, for one that inherits from it."""
    (inherited,) = (one for one in fields(options) if one.name == name)
    return field(default=default, metadata=inherited.metadata)


@dataclass
class LossConfig:
    r"""Which divergence and preference loss, and how strong.

    Arguments:
        loss: A divergence, a preference loss on the reverse KL, a mixture or your own; every name
            that :func:`fdpo.resolve_loss` takes.
        alpha: :math:`\alpha` of the :math:`\alpha`-divergence, in the paper's convention (TRL's
            coefficient is :math:`1 - \alpha`).
        loss_args: The divergence's other parameters, e.g. ``{"t": 0.3}`` for ``skew_js``.
        preference: The loss of the margin; by default the one that ``loss`` names.
        beta: :math:`\beta`, the strength of the reference.
        label_smoothing: The share of flipped labels to expect.
        tail: Slope factor :math:`e^\tau` beyond which a link goes on as a straight line
            (see :func:`fdpo.fdpo_loss`); infinity turns it off.
        match_curvature: Whether to divide the link by :math:`f''(1)`, so that :math:`\beta` means
            the same at the start of training whatever the divergence.
        loser_gradient: Share of the rejected side's gradient (see :func:`fdpo.fdpo_loss`).
    """

    loss: str = field(
        default="sigmoid",
        metadata={
            "help": "sigmoid, hinge, ipo, jsd, fkl, alpha, any divergence's name, a mixture "
            "('0.7*js+0.3*reverse_kl') or your own ('package.module:attribute')"
        },
    )
    alpha: float | None = field(
        default=None, metadata={"help": "alpha of the alpha-divergence: 0 reverse KL, 1 forward KL"}
    )
    loss_args: dict[str, Any] | str | None = field(
        default=None,
        metadata={"help": "other parameters of the divergence, as JSON: '{\"t\": 0.3}'"},
    )
    preference: str | None = field(
        default=None, metadata={"help": f"loss of the margin: {', '.join(PREFERENCES)}"}
    )
    beta: float = field(
        default=0.1, metadata={"help": "strength of the reference: the reward is beta * link"}
    )
    label_smoothing: float = field(
        default=0.0, metadata={"help": "share of flipped labels to expect, in [0, 0.5)"}
    )
    tail: float | None = field(
        default=10.0,
        metadata={"help": "log of the slope factor where a link turns straight; inf: never"},
    )
    match_curvature: bool = field(
        default=False, metadata={"help": "divide links by f''(1): one beta for every divergence"}
    )
    loser_gradient: float = field(
        default=1.0, metadata={"help": "share of the rejected side's gradient that is followed"}
    )

    @classmethod
    def from_run(cls, options: Mapping[str, Any]) -> LossConfig | None:
        """Returns those among the recorded options of a run, or ``None`` if it names no loss."""
        if "loss" not in options:
            return None
        names = [field.name for field in fields(LossConfig)]
        return LossConfig(**{name: options[name] for name in names if name in options})

    def resolve(self) -> tuple[Divergence, str]:
        """Returns the divergence and the name of the preference loss that these options choose."""
        given = self.loss_args or {}
        parameters = dict(json.loads(given) if isinstance(given, str) else given)
        if self.alpha is not None and "alpha" in parameters:
            raise ValueError(f"--alpha {self.alpha}: --loss_args {given} holds alpha already")
        if self.alpha is not None:
            parameters["alpha"] = self.alpha
        divergence, preference = resolve_loss(self.loss, **parameters)
        return divergence, self.preference or preference

    def check_loss(self) -> None:
        """Raises ``ValueError``, naming the option, if one is out of its range."""
        self.resolve()
        if self.preference is not None and self.preference not in PREFERENCES:
            raise ValueError(
                f"--preference {self.preference!r}: choose from {', '.join(PREFERENCES)}"
            )
        if not (math.isfinite(self.beta) and self.beta > 0):
            raise ValueError(f"--beta must be a finite number above 0, got {self.beta}")
        if not 0 <= self.label_smoothing < 0.5:
            raise ValueError(f"--label_smoothing must lie in [0, 0.5), got {self.label_smoothing}")
        if self.tail is not None and not self.tail > 0:
            raise ValueError(f"--tail must be above 0 (inf turns it off), got {self.tail}")
        if not 0 <= self.loser_gradient <= 1:
            raise ValueError(f"--loser_gradient must lie in [0, 1], got {self.loser_gradient}")

    def pair_losses(
        self, chosen: Tensor, rejected: Tensor, divergence: Divergence, preference: str
    ) -> LossOutput:
        """Computes :func:`fdpo.fdpo_loss` of log-ratios as these options say."""
        return fdpo_loss(
            chosen,
            rejected,
            divergence=divergence,
            beta=self.beta,
            preference=preference,
            label_smoothing=self.label_smoothing,
            tail=self.tail,
            match_curvature=self.match_curvature,
            loser_gradient=self.loser_gradient,
        )
