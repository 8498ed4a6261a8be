r"""Win rates of a policy's images against a reference's, under scorers.

Both models generate images for the same prompts from the same noise. A scorer's win rate is the
share of pairs in which the policy's image scores higher, a tie counting half, with Wilson's 95 %
interval over prompts: with several images per prompt :math:`n` is still the number of prompts,
which can only make the interval too wide.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from fdpo.scorers import Scorer

Z = 1.959964  # of a 95 % interval


def wilson(share: float, n: int) -> tuple[float, float]:
    """Returns Wilson's 95 % interval of a share among n. (Wilson, 1927)"""
    centre = (share + Z * Z / (2 * n)) / (1 + Z * Z / n)
    half = Z / (1 + Z * Z / n) * math.sqrt(share * (1 - share) / n + Z * Z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def win_rate(policy: Sequence[float], reference: Sequence[float], prompts: int) -> dict[str, float]:
    """Compares the scores of paired images.

    Arguments:
        policy: Scores of the policy's images.
        reference: Scores of the reference's images, in the same order.
        prompts: The number of distinct prompts.

    Returns:
        ``win_rate`` with ``win_rate_low`` and ``win_rate_high``; the ``mean`` scores of the policy
        and, with ``base_``, of the reference.

    Example:
        >>> win_rate([1.0, 2.0], [0.0, 2.0], prompts=2)["win_rate"]
        0.75
    """
    wins = [(a > b) + 0.5 * (a == b) for a, b in zip(policy, reference, strict=True)]
    share = sum(wins) / len(wins)
    low, high = wilson(share, prompts)
    return {
        "win_rate": share,
        "win_rate_low": low,
        "win_rate_high": high,
        "mean": sum(policy) / len(policy),
        "base_mean": sum(reference) / len(reference),
    }


def win_rates(
    scorers: Mapping[str, Scorer],
    prompts: Sequence[str],
    policy: Sequence[str],
    reference: Sequence[str],
) -> tuple[dict[str, float], dict[str, list[tuple[float, float]]]]:
    """Scores paired image files with every scorer.

    Arguments:
        scorers: The scorers by name.
        prompts: The prompt of each pair.
        policy: Paths of the policy's images.
        reference: Paths of the reference's images.

    Returns:
        The metrics of :func:`win_rate`, prefixed with the scorer's name, and for each scorer the
        scores of each pair, (policy, reference).
    """
    metrics: dict[str, float] = {}
    scores: dict[str, list[tuple[float, float]]] = {}
    for name, scorer in scorers.items():
        policy_scores, reference_scores = scorer(prompts, policy), scorer(prompts, reference)
        comparison = win_rate(policy_scores, reference_scores, len(set(prompts)))
        metrics |= {f"{name}_{key}": value for key, value in comparison.items()}
        scores[name] = list(zip(policy_scores, reference_scores, strict=True))
    return metrics, scores


def win_rate_table(names: Sequence[str], metrics: Mapping[str, float]) -> str:
    """Returns the win rates as text, one line per scorer."""
    lines = [f"{'scorer':24} {'win rate [95 %]':>24} {'policy':>10} {'reference':>10}"]
    for name in names:
        rate, low, high, mean, base = (
            metrics[f"{name}_{key}"]
            for key in ("win_rate", "win_rate_low", "win_rate_high", "mean", "base_mean")
        )
        interval = f"{rate:.3f} [{low:.3f}, {high:.3f}]"
        lines.append(f"{name:24} {interval:>24} {mean:>10.4f} {base:>10.4f}")
    return "\n".join(lines)
