"""The bootstrap against closed forms and simulations."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats

from experiments.bootstrap import average_seeds, bootstrap_means, difference, draw_counts, holm


class TestResampling:
    def test_begins_with_the_means_and_spreads_as_their_standard_errors(self) -> None:
        values = torch.randn(
            400, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
        )
        values[:, 1] = 3 * values[:, 0] + 5
        means = bootstrap_means(values, draws=4000)
        torch.testing.assert_close(means[0], values.mean(0))
        errors = values.std(0) / math.sqrt(400)
        torch.testing.assert_close(means[1:].std(0), errors, rtol=0.05, atol=0)
        # the same draw for all columns
        torch.testing.assert_close(means[:, 1], 3 * means[:, 0] + 5)

    def test_leaves_out_prompts_without_a_value(self) -> None:
        values = torch.tensor([1.0, math.nan, 3.0])
        means = bootstrap_means(values, draws=50)
        assert means[0] == 2
        assert ((means >= 1) & (means <= 3) | means.isnan()).all()

    def test_equal_seeds_resample_the_same(self) -> None:
        assert draw_counts(7, 5, seed=3).equal(draw_counts(7, 5, seed=3))
        assert not draw_counts(7, 5, seed=3).equal(draw_counts(7, 5, seed=4))
        assert (draw_counts(7, 5).sum(dim=1) == 7).all()

    def test_seeds_are_resampled_too(self) -> None:
        values = torch.tensor([0.0, 3.0, 6.0], dtype=torch.float64).expand(5001, 3)
        means = average_seeds(values)
        assert means[0] == 3
        assert len(means.unique()) == 7  # sums of three of 0, 1 and 2
        assert means[1:].var().item() == pytest.approx(9 / 3, rel=0.05)  # unbiased

    def test_one_seed_does_not_change(self) -> None:
        values = torch.linspace(0, 1, 11, dtype=torch.float64)[:, None]
        assert average_seeds(values).equal(values[:, 0])

    def test_a_missing_seed_is_not_replaced(self) -> None:
        values = torch.tensor([1.0, math.nan], dtype=torch.float64).expand(201, 2)
        assert average_seeds(values).isnan().all()


class TestDifference:
    def test_coverage_is_nominal(self) -> None:
        generator, covered, rejected = torch.Generator().manual_seed(0), 0, 0
        for trial in range(300):
            values = torch.randn(60, dtype=torch.float64, generator=generator) + 0.4
            result = difference(bootstrap_means(values, draws=500, seed=trial))
            covered += result.low <= 0.4 <= result.high
            none = difference(bootstrap_means(values - 0.4, draws=500, seed=trial))
            rejected += none.p < 0.05
        assert 0.90 <= covered / 300 <= 0.98
        assert rejected / 300 <= 0.10

    def test_p_value_is_that_of_the_normal_law_for_means(self) -> None:
        values = (
            torch.randn(500, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) + 0.05
        )
        result = difference(bootstrap_means(values))
        expected = stats.ttest_1samp(values.numpy(), 0).pvalue
        assert result.p == pytest.approx(expected, rel=0.25)
        assert result.low < result.value < result.high

    def test_is_missing_where_the_level_is_not_reached(self) -> None:
        draws = torch.ones(101, dtype=torch.float64)
        draws[1:12] = math.nan
        assert math.isnan(difference(draws).value)
        draws[6:12] = 1
        assert difference(draws).value == 1
        draws[0] = math.nan
        assert math.isnan(difference(draws).p)


def test_holm_on_a_worked_example() -> None:
    corrected = holm([0.01, 0.04, math.nan, 0.03, 0.005])
    assert corrected[:2] == pytest.approx([0.03, 0.06])
    assert math.isnan(corrected[2])
    assert corrected[3:] == pytest.approx([0.06, 0.02])
