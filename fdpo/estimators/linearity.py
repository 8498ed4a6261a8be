"""Curvature of a link over the log-ratios of a run.

Near 0 every link is a straight line, and every divergence acts like the reverse KL.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch

from fdpo.divergences.base import Divergence

LEAST = 0.01  # the smallest bend that counts


def bend(divergence: Divergence, log_ratios: Iterable[float]) -> float:
    r"""Returns the largest :math:`|g(\hat\ell)/w(0) - \hat\ell| / |\hat\ell|`, in [0, inf].

    Arguments:
        divergence: The divergence with the link :math:`g` and its slope :math:`w`.
        log_ratios: Log-ratios :math:`\hat\ell`, in nats; zeros are ignored.
    """
    ratios = torch.tensor([ratio for ratio in log_ratios if ratio], dtype=torch.float64)
    if not len(ratios):
        return 0.0
    return (divergence.link(ratios) / divergence.curvature / ratios - 1).abs().max().item()


def linearity_warning(divergence: Divergence, quantiles: dict[str, float]) -> str | None:
    """Returns a warning if the choice of the divergence made no difference, else ``None``.

    Arguments:
        divergence: The divergence of the run.
        quantiles: Quantiles of the run's log-ratios by name, in nats.
    """
    if not quantiles or bend(divergence, [-1.0, 1.0]) < LEAST:  # the reverse KL's link is straight
        return None
    largest_bend = bend(divergence, quantiles.values())
    if largest_bend >= LEAST:
        return None
    largest = max(abs(value) for value in quantiles.values())
    return (
        f"log-ratios reach {largest:.2g} nats, where the link of {divergence} differs from a "
        f"straight line by {100 * largest_bend:.2g} %: the run equals one with reverse KL. "
        "A larger --kappa (with a smaller --beta) makes the divergence count"
    )
