"""Elementwise functions with exact derivatives, and their inverses by bisection."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Elementwise = Callable[[Tensor], Tensor]


def precise(values: Tensor) -> Tensor:
    """Returns float64 as it is and everything else in float32: the ulp of bf16 is 4 at 1,000."""
    return values if values.dtype == torch.float64 else values.float()


def explicit(
    value: Callable[..., Tensor], derivatives: tuple[Elementwise, ...], *inputs: Tensor
) -> Tensor:
    """Evaluates an elementwise function of tensors with its first derivatives given.

    The gradient that autograd finds for the formula of a link is not its slope: that of ``expm1``
    is 0 below -17.3 in float32, and a branch not taken turns an infinity into NaN.

    Arguments:
        value: A sum of functions of one input each.
        derivatives: Their derivatives. Autograd differentiates them for the second derivative.
        inputs: Tensors of one shape.
    """
    return _Explicit.apply(value, derivatives, *inputs)


class _Explicit(torch.autograd.Function):
    @staticmethod
    def forward(value: Callable[..., Tensor], _: Any, *inputs: Tensor) -> Tensor:
        return value(*inputs)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, ctx.derivatives, *tensors = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        pairs = zip(ctx.derivatives, ctx.saved_tensors, strict=True)
        return None, None, *(gradients[0] * derivative(x) for derivative, x in pairs)


def explicit_difference(
    value: Callable[[Tensor, Tensor], Tensor], slope: Elementwise, a: Tensor, b: Tensor
) -> Tensor:
    a, b = torch.broadcast_tensors(precise(a), precise(b))
    return explicit(value, (slope, lambda x: -slope(x)), a, b)


def invert(increasing: Elementwise, values: Tensor) -> Tensor:
    r"""Inverts a non-decreasing elementwise function that is 0 at 0, to the last float64.

    It bisects the bit patterns of :math:`|x|`, which are ordered as the numbers are, so that
    arguments near 0 get all their digits too. Outside the function's range it gives infinities.
    """
    target = values.double()
    sign = torch.where(target < 0, -1.0, 1.0).to(target)
    infinity = torch.full_like(target, torch.inf).view(torch.int64)
    low, high = torch.zeros_like(infinity), infinity
    for _ in range(63):
        middle = low + (high - low) // 2
        below = sign * increasing(sign * middle.view(torch.float64)) <= target.abs()
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    size = torch.where(high == infinity, torch.inf, low.view(torch.float64))
    return torch.where((target == 0) | target.isnan(), target, sign * size).to(values.dtype)


def is_number(value: object) -> bool:
    """Returns whether a value is a real number (a bool is not)."""
    return isinstance(value, int | float) and not isinstance(value, bool)
