"""Means with standard errors over groups, and warnings where few samples decide."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

#: An estimate carries a warning where Kish's effective sample size is below this share of samples,
LEAST_EFFECTIVE = 0.05

#: or where one sample holds more than this share of the sum.
LARGEST_SHARE = 0.2


class Estimate(NamedTuple):
    """A mean and its standard error, in the unit of what was averaged.

    ``warning`` says in one line why they cannot be trusted; it is empty if nothing speaks against.
    """

    value: float
    error: float
    warning: str = ""


def flat(figures: Mapping[str, Estimate], prefix: str = "") -> dict[str, float]:
    """Returns estimates under flat keys, standard errors as ``*_se``, as files of metrics do."""
    values = {prefix + name: estimate.value for name, estimate in figures.items()}
    return values | {f"{prefix}{name}_se": estimate.error for name, estimate in figures.items()}


def mean(values: Tensor, groups: Sequence[Hashable] | None = None) -> Estimate:
    r"""Estimates a mean, with a standard error clustered by prompt.

    The error is :math:`\sqrt{\tfrac{P}{P-1} \sum_p (\sum_{i \in p} x_i - \bar x)^2} / N`, NaN where
    there is a single prompt.

    Arguments:
        values: With shape :math:`(P, S)` or :math:`(P)`; each row is a prompt.
        groups: What says to which prompt a row belongs, where several rows do.
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


def _heavy(weights: Tensor, what: str) -> str:
    """Says how few of the samples decide, if they are too few."""
    share, n = (weights.max() / weights.sum()).item(), weights.numel()
    effective = (weights.sum().square() / weights.square().sum()).item()
    if share > LARGEST_SHARE:
        return f"heavy tail: one sample holds {share:.0%} of the {what} of {n}"
    if effective < LEAST_EFFECTIVE * n:
        return f"heavy tail: the {what} of {n} samples count as {effective:.0f}"
    return ""
