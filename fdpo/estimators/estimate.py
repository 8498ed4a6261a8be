"""Means with standard errors clustered by prompt, and warnings about heavy tails."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

#: An estimate has a warning if Kish's effective sample size is below this share of the samples,
LEAST_EFFECTIVE = 0.05

#: or if one sample contributes more than this share of the sum.
LARGEST_SHARE = 0.2


class Estimate(NamedTuple):
    """A mean and its standard error, in the unit of the values.

    Arguments:
        value: The mean.
        error: The standard error, NaN if there is a single prompt.
        warning: One line on why the estimate cannot be trusted; empty if there is no such reason.
    """

    value: float
    error: float
    warning: str = ""


def flat(estimates: Mapping[str, Estimate], prefix: str = "") -> dict[str, float]:
    """Returns estimates under the keys of a metrics file, standard errors as ``*_se``.

    Example:
        >>> flat({"kl": Estimate(2.0, 0.1)}, prefix="test_")
        {'test_kl': 2.0, 'test_kl_se': 0.1}
    """
    values = {prefix + name: estimate.value for name, estimate in estimates.items()}
    return values | {f"{prefix}{name}_se": estimate.error for name, estimate in estimates.items()}


def mean(values: Tensor, groups: Sequence[Hashable] | None = None) -> Estimate:
    r"""Estimates a mean, with a standard error clustered by prompt.

    The error is :math:`\sqrt{\tfrac{P}{P-1} \sum_p (\sum_{i \in p} x_i - \bar x)^2} / N`, NaN if
    there is a single prompt.

    Arguments:
        values: :math:`x`, with shape :math:`(P, S)` or :math:`(P)`; each row is a prompt.
        groups: The prompt of each row, if several rows have the same prompt.

    Example:
        >>> value, error, _ = mean(torch.tensor([[1.0, 3.0], [5.0, 7.0]]))  # two prompts
        >>> print(f"{value:.1f} ± {error:.1f}")
        4.0 ± 2.0
    """
    rows = values.double().reshape(len(values), -1) if values.numel() else values.new_empty(0, 1)
    numbers: dict[Hashable, int] = {}
    keys = range(len(rows)) if groups is None else groups
    index = [numbers.setdefault(key, len(numbers)) for key in keys]
    if len(index) != len(rows):
        raise ValueError(f"{len(index)} groups for {len(rows)} values")
    value, prompts = rows.mean(), len(numbers)
    if prompts < 2:
        return Estimate(value.item(), math.nan)
    sums = rows.new_zeros(prompts)
    sums.index_add_(0, torch.tensor(index, device=rows.device), (rows - value).sum(1))
    error = math.sqrt(prompts / (prompts - 1)) * sums.norm() / rows.numel()
    return Estimate(value.item(), error.item())


def heavy_tail_warning(weights: Tensor, name: str) -> str:
    """Returns a warning if a few samples make up most of a sum of weights, else an empty string.

    Arguments:
        weights: The terms of the sum, not negative, of any shape.
        name: Their name in the warning, in the plural.
    """
    share, n = (weights.max() / weights.sum()).item(), weights.numel()
    effective = (weights.sum().square() / weights.square().sum()).item()
    if share > LARGEST_SHARE:
        return f"heavy tail: one sample holds {share:.0%} of the {name} of {n}"
    if effective < LEAST_EFFECTIVE * n:
        return f"heavy tail: the {name} of {n} samples count as {effective:.0f}"
    return ""
