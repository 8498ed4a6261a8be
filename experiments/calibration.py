r"""Calibration of policies on held-out pairs, with errors clustered by prompt.

A policy's probability is that of the side it prefers, from one half to 1, in :data:`BINS` bins.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from experiments.measurements import measurements
from experiments.runs import Run, predicts_probabilities
from fdpo import estimators
from fdpo.estimators.calibration import right

BINS = 8


def bin_index(margins: Tensor) -> Tensor:
    """Returns the bin of the probability of the preferred side."""
    return ((margins.abs().sigmoid() - 0.5) * 2 * BINS).long().clamp(max=BINS - 1)


def calibration_moments(margins: Tensor, by_prompt: Callable[[Tensor], Tensor]) -> Tensor:
    """Returns the moments behind the calibration error of each prompt: shape (P, 5, BINS).

    For each bin of probability: the share n of the prompt's pairs in it, their residual r
    (correctness minus probability), and n², n r and r².

    Arguments:
        margins: The margins of pairs, with shape (N).
        by_prompt: Averages over the pairs of each prompt: shape (N, *) to (P, *).
    """
    inside = one_hot(bin_index(margins), BINS).double()
    residual = right(margins) - margins.abs().sigmoid()
    n, r = by_prompt(inside), by_prompt(inside * residual[:, None])
    return torch.stack([n, r, n * n, n * r, r * r], dim=1)


def calibration_error(moments: Tensor, prompts: int) -> Tensor:
    r"""Returns root-mean-square calibration errors, from bootstrap means of the moments.

    The square is :math:`\sum_b n_b (r_b/n_b)^2`, where a pair falls into bin b with probability
    :math:`n_b` and :math:`r_b` is the mean of correctness minus probability. The variance of
    :math:`r_b/n_b` over prompts is subtracted from each term: otherwise a calibrated policy has an
    error of .05 on 300 pairs. (Kumar, Liang and Ma, 2019, https://arxiv.org/abs/1909.10155) The
    draws, which have the noise twice, are shifted to the measured mean.

    Arguments:
        moments: With shape (1 + draws, \*, 5, BINS).
        prompts: The number of prompts behind the means.

    Returns:
        Errors with shape (1 + draws, \*); 0 where the noise exceeds the error.
    """
    n, r, nn, nr, rr = moments.unbind(dim=-2)
    gap = r / n
    variance = (rr - 2 * gap * nr + gap.square() * nn) / (prompts * n - 1)
    terms = torch.where(prompts * n > 1, n * gap.square() - variance, 0)
    squares = terms.sum(dim=-1) + 0 * n.sum(dim=-1)  # NaN where a run is missing
    squares = torch.cat([squares[:1], squares[1:] - squares[1:].mean(dim=0) + squares[0]])
    return squares.clamp(min=0).sqrt()


def calibration_curves(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Returns the accuracy among pairs of each bin of probability, by method and beta."""
    rows = []
    runs = [run for run in runs if predicts_probabilities(run.method)]
    for method, beta in dict.fromkeys((run.method, run.beta) for run in runs):
        mine = [run for run in runs if (run.method, run.beta) == (method, beta)]
        pairs = [measurements(run.folder)["pairs"] for run in mine]
        prompts = [prompt for run_pairs in pairs for prompt in run_pairs["prompt"]]
        margins = torch.tensor(
            [margin for run_pairs in pairs for margin in run_pairs["margin"]], dtype=torch.float64
        )
        rows += [{"method": method, "beta": beta, **row} for row in bin_rows(margins, prompts)]
    return rows


def bin_rows(margins: Tensor, prompts: Sequence[int]) -> list[dict[str, Any]]:
    """Returns a row for each bin that holds pairs: their mean probability and accuracy."""
    probabilities, correct, bins = margins.abs().sigmoid(), right(margins), bin_index(margins)
    rows = []
    for number in range(BINS):
        if inside := (bins == number).nonzero().flatten().tolist():
            share = estimators.mean(correct[inside], [prompts[i] for i in inside])
            rows.append({
                "pairs": len(inside), "says": probabilities[inside].mean().item(),
                "right": share.value,
                "right_se": share.error if math.isfinite(share.error) else None,
            })  # fmt: skip
    return rows
