"""Calibration against torchmetrics and scipy, and on margins whose calibration is known."""

import math

import pytest
import scipy
import torch
from torch import Tensor
from torchmetrics.classification import BinaryCalibrationError

from fdpo.estimators.calibration import calibration


def margins(pairs: int, scale: float = 1.0) -> Tensor:
    """Margins of a policy that is right with the probability that it says, times a scale."""
    generator = torch.Generator().manual_seed(0)
    sure = 2 * torch.randn(pairs, generator=generator, dtype=torch.float64)
    right = torch.rand(pairs, generator=generator) < sure.sigmoid()
    return scale * torch.where(right, sure, -sure)


def test_means_are_those_of_scipy() -> None:
    m = margins(500)
    found = calibration(m)
    wrong = scipy.special.expit(-m.numpy())
    assert found.brier[:2] == pytest.approx(((wrong**2).mean(), scipy.stats.sem(wrong**2)))
    nll = -scipy.special.log_expit(m.numpy())
    assert found.nll[:2] == pytest.approx((nll.mean(), scipy.stats.sem(nll)))
    assert found.accuracy[:2] == pytest.approx(
        ((m > 0).double().mean().item(), scipy.stats.sem((m > 0).numpy()))
    )


def test_error_is_that_of_torchmetrics_with_both_orders() -> None:
    m = margins(400)
    metric = BinaryCalibrationError(n_bins=15)
    metric.update(m.sigmoid(), torch.ones(400, dtype=torch.long))
    metric.update((-m).sigmoid(), torch.zeros(400, dtype=torch.long))
    assert calibration(m).ece == pytest.approx(metric.compute().item())


def test_a_calibrated_policy_is_told_from_one_too_sure() -> None:
    right, sure, unsure = (calibration(margins(20_000, scale)) for scale in (1, 4, 0.25))
    assert right.ece < 0.015 and sure.ece > 0.1 and unsure.ece > 0.1
    assert right.nll.value < min(sure.nll.value, unsure.nll.value)
    assert right.brier.value < min(sure.brier.value, unsure.brier.value)
    assert right.accuracy == sure.accuracy == unsure.accuracy


def test_ties_count_half_and_certainty_is_finite_where_it_is_right() -> None:
    found = calibration(torch.tensor([0.0, 1.0, -1.0, 0.0]))
    assert found.accuracy.value == 0.5
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
