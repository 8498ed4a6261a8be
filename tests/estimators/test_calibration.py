"""Calibration against torchmetrics and scipy, and on margins of known calibration."""

import math

import pytest
import scipy
import torch
from torch import Tensor
from torchmetrics.classification import BinaryCalibrationError

from fdpo.estimators.calibration import calibration


def margins(pairs: int, scale: float = 1.0) -> Tensor:
    """Returns the margins of a policy that is right with the probability it predicts, scaled."""
    generator = torch.Generator().manual_seed(0)
    confidence = 2 * torch.randn(pairs, generator=generator, dtype=torch.float64)
    right = torch.rand(pairs, generator=generator) < confidence.sigmoid()
    return scale * torch.where(right, confidence, -confidence)


def test_means_are_those_of_scipy() -> None:
    m = margins(500)
    result = calibration(m)
    wrong = scipy.special.expit(-m.numpy())
    assert result.brier[:2] == pytest.approx(((wrong**2).mean(), scipy.stats.sem(wrong**2)))
    nll = -scipy.special.log_expit(m.numpy())
    assert result.nll[:2] == pytest.approx((nll.mean(), scipy.stats.sem(nll)))
    assert result.accuracy[:2] == pytest.approx(
        ((m > 0).double().mean().item(), scipy.stats.sem((m > 0).numpy()))
    )


def test_error_is_that_of_torchmetrics_with_both_orders() -> None:
    m = margins(400)
    metric = BinaryCalibrationError(n_bins=15)
    metric.update(m.sigmoid(), torch.ones(400, dtype=torch.long))
    metric.update((-m).sigmoid(), torch.zeros(400, dtype=torch.long))
    assert calibration(m).ece == pytest.approx(metric.compute().item())


def test_calibrated_overconfident_and_underconfident_policies() -> None:
    right, over, under = (calibration(margins(20_000, scale)) for scale in (1, 4, 0.25))
    assert right.ece < 0.015 and over.ece > 0.1 and under.ece > 0.1
    assert right.nll.value < min(over.nll.value, under.nll.value)
    assert right.brier.value < min(over.brier.value, under.brier.value)
    assert right.accuracy == over.accuracy == under.accuracy


def test_ties_count_half_and_certain_right_pairs_are_finite() -> None:
    result = calibration(torch.tensor([0.0, 1.0, -1.0, 0.0]))
    assert result.accuracy.value == 0.5
    assert calibration(torch.zeros(9)).ece == 0
    certain = calibration(torch.tensor([math.inf, 800.0]))
    assert certain.nll.value == 0 and certain.ece == 0 and certain.accuracy.value == 1


def test_pairs_of_one_prompt_are_not_independent() -> None:
    m = margins(100)
    once, thrice = calibration(m), calibration(m.repeat(3), [*range(100)] * 3)
    assert thrice.nll[:2] == pytest.approx(once.nll[:2])
    assert calibration(m.repeat(3)).nll.error < 0.6 * once.nll.error


def test_metrics_are_flat() -> None:
    names = {"accuracy", "accuracy_se", "nll", "nll_se", "brier", "brier_se", "ece"}
    assert calibration(margins(20)).metrics("pairs_").keys() == {f"pairs_{n}" for n in names}


def test_wrong_margins() -> None:
    with pytest.raises(ValueError, match=r"shape \(pairs,\), got \(0,\)"):
        calibration(torch.empty(0))
    with pytest.raises(ValueError, match="margin of pair 1 is NaN"):
        calibration(torch.tensor([1.0, math.nan]))
