"""The interface of a divergence, and weighted sums of divergences.

:mod:`fdpo.divergences` states the formalism.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from functools import cached_property
from typing import final

import torch
from torch import Tensor

from fdpo.divergences.numerics import explicit, explicit_difference, invert, is_number, precise


class Divergence(ABC):
    r"""An :math:`f`-divergence with its link :math:`g` and slope :math:`w`. Abstract.

    Every method is elementwise and takes tensors of any shape. It computes bf16, fp16 and integers
    in float32 and returns float32; float64 stays float64. A weighted sum of divergences is a
    divergence.

    A subclass is a frozen dataclass whose fields are its parameters, each with a default. It
    defines ``name``, ``_f``, ``_link`` and ``_slope`` for tensors in float32 or float64. It
    overrides ``_inverse_link`` and ``_difference`` where it has closed forms, and ``exact`` where
    it is not exact.

    Example:
        >>> import fdpo, torch
        >>> divergence = fdpo.get_divergence("forward_kl")
        >>> log_ratio = torch.tensor([-1.0, 0.0, 1.0])
        >>> divergence.link(log_ratio)  # 1 - exp(-ℓ)
        tensor([-1.7183,  0.0000,  0.6321])
        >>> divergence.slope(log_ratio)
        tensor([2.7183, 1.0000, 0.3679])
        >>> divergence.exact, divergence.curvature
        (True, 1.0)
        >>> mixture = 0.7 * divergence + 0.3 * fdpo.get_divergence("reverse_kl")
        >>> mixture.slope(log_ratio)
        tensor([2.2028, 1.0000, 0.5575])
    """

    name: str

    @abstractmethod
    def _f(self, ratio: Tensor) -> Tensor: ...

    @abstractmethod
    def _link(self, log_ratio: Tensor) -> Tensor: ...

    @abstractmethod
    def _slope(self, log_ratio: Tensor) -> Tensor: ...

    def _inverse_link(self, value: Tensor) -> Tensor:
        return invert(self._link, value)

    def _difference(self, a: Tensor, b: Tensor) -> Tensor:
        return self._link(a) - self._link(b)

    @property
    def exact(self) -> bool:
        r"""True if :math:`f'(0^+) = -\infty`: then f-DPO recovers every optimum."""
        return True

    @cached_property
    def curvature(self) -> float:
        r""":math:`f''(1) = w(0)`, which scales :math:`\beta` at the start of training."""
        return self._slope(torch.zeros(1, dtype=torch.float64)).item()

    def f(self, ratio: Tensor) -> Tensor:
        r"""Returns the generator :math:`f(u)` of ratios :math:`u \geq 0`."""
        return self._f(precise(ratio))

    def link(self, log_ratio: Tensor) -> Tensor:
        r"""Returns :math:`g(\ell)`, infinite where it overflows; its gradient is :meth:`slope`."""
        return explicit(self._link, (self._slope,), precise(log_ratio))

    def slope(self, log_ratio: Tensor) -> Tensor:
        r"""Returns :math:`w(\ell) = g'(\ell)`."""
        return self._slope(precise(log_ratio))

    def inverse_link(self, value: Tensor) -> Tensor:
        r"""Returns :math:`g^{-1}(v)`, infinite outside the range of :math:`g`; has no gradient."""
        with torch.no_grad():
            return self._inverse_link(precise(value))

    def difference(self, a: Tensor, b: Tensor) -> Tensor:
        r"""Returns :math:`g(a) - g(b)` without the cancellation of subtracting two links."""
        return explicit_difference(self._difference, self._slope, a, b)

    def __mul__(self, weight: float) -> Divergence:
        return Mixture(((weight, self),))

    __rmul__ = __mul__

    def __add__(self, other: Divergence) -> Divergence:
        return Mixture(((1.0, self), (1.0, other)))

    def __str__(self) -> str:
        """Returns the text that :func:`fdpo.resolve_loss` parses."""
        values = ", ".join(repr(getattr(self, name)) for name in parameters(type(self)))
        return f"{self.name}({values})" if values else self.name


@final
@dataclass(frozen=True)
class Mixture(Divergence):
    r"""A weighted sum :math:`\sum_i c_i f_i`, :math:`c_i > 0`, with link :math:`\sum_i c_i g_i`.

    Arguments:
        terms: The pairs :math:`(c_i, f_i)`. The terms of a nested mixture become terms of this one.

    Raises:
        ValueError: If a weight is not a finite number above 0.
    """

    name = "mixture"
    terms: tuple[tuple[float, Divergence], ...]

    def __post_init__(self) -> None:
        flat: list[tuple[float, Divergence]] = []
        for weight, term in self.terms:
            if not (is_number(weight) and 0 < weight < math.inf):
                raise ValueError(f"the weight of {term} must be finite and above 0, got {weight!r}")
            inner = term.terms if isinstance(term, Mixture) else ((1.0, term),)
            flat.extend((weight * factor, divergence) for factor, divergence in inner)
        object.__setattr__(self, "terms", tuple(flat))

    @property
    def exact(self) -> bool:
        return any(divergence.exact for _, divergence in self.terms)

    def _sum(self, function: Callable[[Divergence], Tensor]) -> Tensor:
        first, *rest = (weight * function(divergence) for weight, divergence in self.terms)
        return sum(rest, start=first)

    def _f(self, ratio: Tensor) -> Tensor:
        return self._sum(lambda d: d._f(ratio))

    def _link(self, log_ratio: Tensor) -> Tensor:
        return self._sum(lambda d: d._link(log_ratio))

    def _slope(self, log_ratio: Tensor) -> Tensor:
        return self._sum(lambda d: d._slope(log_ratio))

    def _difference(self, a: Tensor, b: Tensor) -> Tensor:
        return self._sum(lambda d: d._difference(a, b))

    def __str__(self) -> str:
        return " + ".join(f"{c!r}*{d}" if c != 1 else str(d) for c, d in self.terms)


def parameters(kind: type[Divergence]) -> tuple[str, ...]:
    """Returns the names of the parameters of a class of divergences."""
    return tuple(field.name for field in fields(kind)) if is_dataclass(kind) else ()
