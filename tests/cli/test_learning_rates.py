"""Rates to try next, and rates at betas without trials."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from fdpo import runs
from fdpo.cli import learning_rates


def test_a_power_law_goes_through_two_rates_and_between_more() -> None:
    assert learning_rates.power_law({0.3: 2e-4}, 7) == 2e-4
    assert learning_rates.power_law({0.1: 4e-4, 10: 4e-5}, 1) == pytest.approx(1.26e-4)
    assert learning_rates.power_law({1: 1e-3, 10: 4e-3, 100: 1e-3}, 10) == pytest.approx(1.59e-3)


@pytest.mark.parametrize(
    ("losses", "rate"),
    [
        ({1e-4: 2.0, 2e-4: 1.0, 4e-4: 3.0}, None),
        ({1e-4: 1.0, 2e-4: 2.0, 4e-4: math.inf}, 5e-5),
        ({1e-4: 3.0, 3e-4: 2.0}, 9e-4),
        ({1e-4: math.inf, 2e-4: math.inf}, 5e-5),
        ({1e-4: 1.0, 2e-4: 1.0}, 5e-5),
        ({1e-4: 1.0}, None),
    ],
)
def test_the_next_rate_is_beyond_the_best(losses: dict[float, float], rate: float) -> None:
    assert learning_rates.beyond(losses) == rate


def test_a_loss_that_is_not_a_number_is_null_in_a_log(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    runs.write_jsonl(log, [{"step": i, "loss": math.nan if i == 4 else 1.0} for i in range(1, 6)])
    assert math.isnan(learning_rates.mean_metric(log, "loss"))
    runs.write_jsonl(log, [{"step": i, "loss": float(i)} for i in range(1, 5)])
    assert learning_rates.mean_metric(log, "loss") == 3.5
    assert math.isnan(learning_rates.mean_metric(log, "eval_loss"))
