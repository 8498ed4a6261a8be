"""Calibration errors of held-out pairs, and their curves."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from experiments.bootstrap import bootstrap_means
from experiments.calibration import calibration_error
from experiments.metrics import pair_metrics


def calibrated_pairs(seed: int, scale: float) -> dict[str, Any]:
    """Returns the metrics of 300 pairs, of a calibrated policy's log-odds times a scale."""
    generator = torch.Generator().manual_seed(seed)
    log_odds = 1.5 * torch.randn(300, generator=generator, dtype=torch.float64)
    right = torch.rand(300, generator=generator) < log_odds.sigmoid()
    margins = scale * torch.where(right, log_odds, -log_odds)
    return pair_metrics(range(300), margins.tolist())


@pytest.mark.parametrize(("scale", "truth"), [(1.0, 0.0), (1.5, 0.067), (3.0, 0.159)])
def test_calibration_error_is_that_of_many_pairs_and_its_interval_covers_it(
    scale: float, truth: float
) -> None:
    """The mean of its squares is not that of the noise, which alone is .05 on so few pairs."""
    errors, covered = [], 0
    for seed in range(60):
        moments, _ = calibrated_pairs(seed, scale)["calibration_moments"]
        draws = calibration_error(bootstrap_means(moments, 200), 300)
        errors.append(draws[0].item())
        low, high = draws[1:].quantile(torch.tensor([0.025, 0.975], dtype=draws.dtype)).tolist()
        covered += low <= truth <= high
    assert math.sqrt(sum(x * x for x in errors) / 60) == pytest.approx(truth, abs=0.035)
    assert sum(errors) / 60 == pytest.approx(truth, abs=0.025)
    assert covered >= 52  # of 60, of which 57 are expected


def test_calibration_error_without_noise_is_the_gap() -> None:
    """Pairs of one prompt count as one: tenfold repetition does not reduce the noise."""
    margins = [2.0 if i % 2000 < 1200 else -2.0 for i in range(20_000)]
    pairs = pair_metrics([i // 10 for i in range(20_000)], margins)
    moments, zero = pairs["calibration_moments"]
    gap = 1 / (1 + math.exp(-2)) - 0.6
    variance = 0.6 * 0.4 / (2000 - 1)  # of 2,000 prompts with identical pairs
    error = calibration_error(moments.mean(0)[None], 2000).item()
    assert error == pytest.approx(math.sqrt(gap**2 - variance), rel=1e-9)
    assert calibration_error(zero.mean(0)[None], 2000).item() == 0


def test_calibration_curves_count_accuracy_by_probability(results: dict[str, Any]) -> None:
    row = next(row for row in results["calibration"]["rows"] if row["method"] == "jsd")
    assert row["says"] == pytest.approx(1 / (1 + math.exp(-1)), abs=1e-5)
    assert row["right"] == 0.75 and row["pairs"] == 80
