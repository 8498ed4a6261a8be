"""Options of an f-DPO loss, shared by all trainers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from torch import Tensor

from fdpo.divergences.base import Divergence
from fdpo.losses.fdpo import LossOutput, check_options, fdpo_loss
from fdpo.losses.names import is_plugin, resolve_loss
from fdpo.losses.preference import PREFERENCES

#: ``--loss`` on the command line resets these options of a preset, which belong to its loss.
RESETS = {"loss": ("alpha", "loss_args", "preference")}


def with_default(options: Any, name: str, default: Any) -> Any:
    """Returns a field of a dataclass with another default, for a dataclass that inherits it."""
    return field(default=default, metadata=options.__dataclass_fields__[name].metadata)


@dataclass
class LossConfig:
    r"""Divergence and preference loss of a run, and the options of :func:`fdpo.fdpo_loss`.

    Arguments:
        loss: The divergence or preference loss: any text that :func:`fdpo.resolve_loss` takes.
        alpha: :math:`\alpha` of the :math:`\alpha`-divergence, in the convention of the paper
            (TRL's coefficient is :math:`1 - \alpha`).
        loss_args: Other parameters of the divergence, e.g. ``{"t": 0.3}`` for ``skew_js``.
        preference: The loss of the margin; by default the one that ``loss`` implies.
        beta: As in :func:`fdpo.fdpo_loss`.
        label_smoothing: As in :func:`fdpo.fdpo_loss`.
        tail: As in :func:`fdpo.fdpo_loss`; infinity turns it off.
        match_curvature: As in :func:`fdpo.fdpo_loss`.
        loser_gradient: As in :func:`fdpo.fdpo_loss`.

    Example:
        >>> LossConfig(loss="alpha", alpha=0.3).resolve()
        (Alpha(alpha=0.3), 'logistic')
        >>> LossConfig(beta=-1.0).check_loss()
        Traceback (most recent call last):
        ValueError: --beta must be a finite number above 0, got -1.0
    """

    loss: str = field(
        default="sigmoid",
        metadata={
            "help": "sigmoid, hinge, ipo, jsd, fkl, alpha, any divergence's name, a mixture "
            "('0.7*js+0.3*reverse_kl') or a plug-in ('package.module:attribute')"
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
        default=0.1, metadata={"help": "weight of the divergence: the reward is beta * link"}
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
    def from_run(cls, options: Mapping[str, Any], named: str | None = None) -> LossConfig | None:
        """Returns the loss among the recorded options of a run, or ``None`` if there is none.

        Arguments:
            options: The options.
            named: The loss as the user names it now. A plug-in has to be named again: the record
                may be a stranger's, whose modules nobody asked to import.

        Raises:
            ValueError: If a plug-in is not named again, or another loss is named.
        """
        recorded = options.get("loss")
        if not isinstance(recorded, str | None):
            raise ValueError(f"the run's record names no loss, but {recorded!r:.80}")
        if named is not None and named != recorded:
            raise ValueError(f"--loss {named}: the run was trained with {recorded or 'no loss'}")
        if recorded is None:
            return None
        if is_plugin(recorded) and named is None:
            raise ValueError(
                f"the run's loss {recorded} is code of its own, which is imported only if you name "
                f"it: --loss {recorded}"
            )
        names = [option.name for option in fields(LossConfig)]
        config = LossConfig(**{name: options[name] for name in names if name in options})
        try:
            config.check_loss()
        except (TypeError, ValueError) as error:
            raise ValueError(f"the loss in the run's record: {error}") from error
        return config

    def resolve(self) -> tuple[Divergence, str]:
        """Returns the divergence and the name of the preference loss."""
        text = self.loss_args or {}
        parameters = dict(json.loads(text) if isinstance(text, str) else text)
        if self.alpha is not None and "alpha" in parameters:
            raise ValueError(f"--alpha {self.alpha}: --loss_args {text} holds alpha already")
        divergence, preference = resolve_loss(self.loss, **{"alpha": self.alpha} | parameters)
        return divergence, self.preference or preference

    def check_loss(self) -> None:
        """Raises `ValueError`, naming the option, if an option is out of its range."""
        _, preference = self.resolve()
        try:
            check_options(preference=preference, **self._numbers())
        except ValueError as error:
            raise ValueError(f"--{error}") from None

    def pair_losses(
        self, chosen: Tensor, rejected: Tensor, divergence: Divergence, preference: str
    ) -> LossOutput:
        """Computes :func:`fdpo.fdpo_loss` of log-ratios with these options."""
        return fdpo_loss(
            chosen,
            rejected,
            divergence=divergence,
            preference=preference,
            match_curvature=self.match_curvature,
            **self._numbers(),
        )

    def _numbers(self) -> dict[str, Any]:
        return {
            "beta": self.beta,
            "label_smoothing": self.label_smoothing,
            "tail": self.tail,
            "loser_gradient": self.loser_gradient,
        }
