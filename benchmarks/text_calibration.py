"""Whether policies are as sure of held-out pairs as they are right, with errors over prompts.

A policy's probability is that of the side it prefers, from one half to 1, in :data:`BINS` bins.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from text_runs import BINS, Run, bin_of, measurements, says_probability
from torch import Tensor

from fdpo import estimators
from fdpo.estimators.calibration import right


def calibration_error(moments: Tensor, prompts: int) -> Tensor:
    r"""Returns root-mean-square calibration errors, from bootstrap means of ``MOMENTS``.

    The square is :math:`\sum_b n_b (r_b/n_b)^2`, where a pair falls into bin b with probability
    :math:`n_b` and :math:`r_b` is the mean of what is right less its probability. Of each term the
    variance of :math:`r_b/n_b` over prompts is taken off: without it a calibrated policy has an
    error of .05 on 300 pairs. (Kumar, Liang and Ma, 2019, https://arxiv.org/abs/1909.10155) The
    draws, which have the noise twice, are moved to have the mean that was measured.

    Arguments:
        moments: With shape (1 + draws, \*, 5, BINS).
        prompts: How many prompts the means are over.

    Returns:
        Errors with shape (1 + draws, \*); 0 where the noise is more than the error.
    """
    n, r, nn, nr, rr = moments.unbind(dim=-2)
    gap = r / n
    variance = (rr - 2 * gap * nr + gap.square() * nn) / (prompts * n - 1)
    terms = torch.where(prompts * n > 1, n * gap.square() - variance, 0)
    squares = terms.sum(dim=-1) + 0 * n.sum(dim=-1)  # NaN where a run is missing
    squares = torch.cat([squares[:1], squares[1:] - squares[1:].mean(dim=0) + squares[0]])
    return squares.clamp(min=0).sqrt()


def calibration_curves(cells: Sequence[Run]) -> list[dict[str, Any]]:
    """Returns, for each method and beta, what is right among pairs of each probability."""
    rows = []
    cells = [run for run in cells if says_probability(run.method)]
    for method, beta in dict.fromkeys((run.method, run.beta) for run in cells):
        mine = [run for run in cells if (run.method, run.beta) == (method, beta)]
        pairs = [measurements(run.folder)["pairs"] for run in mine]
        prompts = [prompt for one in pairs for prompt in one["prompt"]]
        margins = torch.tensor([m for one in pairs for m in one["margin"]], dtype=torch.float64)
        sure, correct, bins = margins.abs().sigmoid(), right(margins), bin_of(margins)
        for one in range(BINS):
            if inside := (bins == one).nonzero().flatten().tolist():
                share = estimators.mean(correct[inside], [prompts[i] for i in inside])
                rows.append({
                    "method": method, "beta": beta, "pairs": len(inside),
                    "says": sure[inside].mean().item(), "right": share.value,
                    "right_se": share.error if math.isfinite(share.error) else None,
                })  # fmt: skip
    return rows
