"""Elementwise functions with explicit derivatives, stable differences, and inverses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

Elementwise = Callable[[Tensor], Tensor]


def precise(values: Tensor) -> Tensor:
    """Converts all but float64 to float32: bf16 has an ulp of 4 at 1,000."""
    return values if values.dtype == torch.float64 else values.float()


def explicit(
    value: Callable[..., Tensor], derivatives: tuple[Elementwise, ...], *inputs: Tensor
) -> Tensor:
    """Evaluates an elementwise function of tensors with explicit first derivatives.

    Autograd does not compute the slope of a link from its formula: the gradient of ``expm1`` is 0
    below -17.3 in float32, and a branch that is not taken turns an infinity into NaN.

    Arguments:
        value: A sum of functions of one input each.
        derivatives: The derivatives of these functions. Autograd differentiates them for the second
            derivative.
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
    """Evaluates the difference of a function at ``a`` and ``b``, given the function's slope."""
    a, b = torch.broadcast_tensors(precise(a), precise(b))
    return explicit(value, (slope, lambda x: -slope(x)), a, b)


def invert(increasing: Elementwise, values: Tensor) -> Tensor:
    r"""Inverts a non-decreasing elementwise function that is 0 at 0, to float64 precision.

    It bisects the bit patterns of :math:`|x|`, which have the order of the numbers, so that results
    near 0 have all their digits too. Values outside the range of the function give infinities.
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


def invert_expm1_plus_identity(value: Tensor) -> Tensor:
    """Inverts :math:`e^x - 1 + x` by Newton's method from above, in float64."""
    target = value.double()
    start = torch.where(target <= 0, target, target.clamp(min=0).log1p())
    x = start
    for _ in range(6):
        x = x - (torch.expm1(x) + (x - target)) / (torch.exp(x) + 1)
    return torch.where(target.abs() > 1e300, start, x).to(value.dtype)  # there the start is exact


def logsigmoid_difference(a: Tensor, b: Tensor, shift: float) -> Tensor:
    r"""Returns :math:`\log\sigma(a - s) - \log\sigma(b - s)` without cancellation."""
    distance = (a - b).abs()
    low, high = torch.minimum(a, b) - shift, torch.maximum(a, b) - shift
    fall = torch.expm1(-distance)
    near = -torch.log1p(fall * torch.sigmoid(-low))
    below = distance + torch.log1p(fall * torch.sigmoid(high))
    across = logsigmoid(high) - logsigmoid(low)
    size = torch.where((low >= 0) | (distance < 1), near, torch.where(high <= 0, below, across))
    return torch.sign(a - b) * size


def is_number(value: object) -> bool:
    """Returns whether a value is a real number (a bool is not)."""
    return isinstance(value, int | float) and not isinstance(value, bool)
