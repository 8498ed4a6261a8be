"""Curves and the bootstrap against closed forms and simulated worlds."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats

from fdpo import curves


class TestCrossing:
    path = torch.tensor([0.0, 2.0, 6.0], dtype=torch.float64)
    values = torch.tensor([0.0, 1.0, 5.0], dtype=torch.float64)

    @pytest.mark.parametrize(("level", "value"), [(0, 0), (1, 0.5), (2, 1), (5, 4), (6, 5)])
    def test_joins_points_by_straight_lines(self, level: float, value: float) -> None:
        assert curves.crossing(self.path, self.values, level).item() == pytest.approx(value)

    def test_is_missing_beyond_the_last_point(self) -> None:
        assert curves.crossing(self.path, self.values, 6.01).isnan()

    def test_takes_the_first_crossing_of_a_path_that_turns(self) -> None:
        path = torch.tensor([0.0, 2.0, 1.0, 3.0])
        values = torch.tensor([0.0, 10.0, 20.0, 30.0])
        assert curves.crossing(path, values, 1.5).item() == pytest.approx(7.5)

    def test_a_flat_piece_has_the_value_at_its_beginning(self) -> None:
        path, values = torch.tensor([1.0, 1.0, 2.0]), torch.tensor([3.0, 4.0, 5.0])
        assert curves.crossing(path, values, 1.0).item() == 3

    def test_points_are_taken_in_the_order_of_their_distance(self) -> None:
        shuffled = torch.tensor([2, 0, 1])
        found = curves.along(
            self.path[shuffled], self.path[shuffled], self.values[shuffled], level=5
        )
        assert found.item() == pytest.approx(4)

    def test_many_curves_at_once(self) -> None:
        paths = torch.stack([self.path, 2 * self.path, self.path / 10])
        found = curves.crossing(paths, self.values.expand(3, 3), 2.0)
        assert found[:2].tolist() == pytest.approx([1, 0.5])
        assert found[2].isnan()


class TestResampling:
    def test_begins_with_the_means_and_spreads_as_their_standard_errors(self) -> None:
        values = torch.randn(
            400, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
        )
        values[:, 1] = 3 * values[:, 0] + 5
        found = curves.resampled(values, draws=4000)
        torch.testing.assert_close(found[0], values.mean(0))
        errors = values.std(0) / math.sqrt(400)
        torch.testing.assert_close(found[1:].std(0), errors, rtol=0.05, atol=0)
        # one draw for all columns
        torch.testing.assert_close(found[:, 1], 3 * found[:, 0] + 5)

    def test_leaves_out_openings_without_a_value(self) -> None:
        values = torch.tensor([1.0, math.nan, 3.0])
        found = curves.resampled(values, draws=50)
        assert found[0] == 2
        assert ((found >= 1) & (found <= 3) | found.isnan()).all()

    def test_equal_seeds_draw_the_same(self) -> None:
        assert curves.counts(7, 5, seed=3).equal(curves.counts(7, 5, seed=3))
        assert not curves.counts(7, 5, seed=3).equal(curves.counts(7, 5, seed=4))
        assert (curves.counts(7, 5).sum(dim=1) == 7).all()

    def test_seeds_are_drawn_too(self) -> None:
        values = torch.tensor([0.0, 3.0, 6.0], dtype=torch.float64).expand(5001, 3)
        found = curves.over_seeds(values)
        assert found[0] == 3
        assert len(found.unique()) == 7  # sums of three of 0, 1 and 2
        assert found[1:].var().item() == pytest.approx(9 / 3, rel=0.05)  # unbiased

    def test_one_seed_is_as_it_is(self) -> None:
        values = torch.linspace(0, 1, 11, dtype=torch.float64)[:, None]
        assert curves.over_seeds(values).equal(values[:, 0])

    def test_a_seed_that_is_missing_is_not_made_up_for(self) -> None:
        values = torch.tensor([1.0, math.nan], dtype=torch.float64).expand(201, 2)
        assert curves.over_seeds(values).isnan().all()


class TestDifference:
    def test_covers_as_often_as_it_says(self) -> None:
        generator, covered, rejected = torch.Generator().manual_seed(0), 0, 0
        for trial in range(300):
            values = torch.randn(60, dtype=torch.float64, generator=generator) + 0.4
            found = curves.difference(curves.resampled(values, draws=500, seed=trial))
            covered += found.low <= 0.4 <= found.high
            none = curves.difference(curves.resampled(values - 0.4, draws=500, seed=trial))
            rejected += none.p < 0.05
        assert 0.90 <= covered / 300 <= 0.98
        assert rejected / 300 <= 0.10

    def test_p_value_is_that_of_the_normal_law_for_means(self) -> None:
        values = (
            torch.randn(500, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) + 0.05
        )
        found = curves.difference(curves.resampled(values))
        expected = stats.ttest_1samp(values.numpy(), 0).pvalue
        assert found.p == pytest.approx(expected, rel=0.25)
        assert found.low < found.value < found.high

    def test_says_nothing_of_a_level_that_is_not_reached(self) -> None:
        draws = torch.ones(101, dtype=torch.float64)
        draws[1:12] = math.nan
        assert math.isnan(curves.difference(draws).value)
        draws[6:12] = 1
        assert curves.difference(draws).value == 1
        draws[0] = math.nan
        assert math.isnan(curves.difference(draws).p)


def test_holm_on_a_worked_example() -> None:
    found = curves.holm([0.01, 0.04, math.nan, 0.03, 0.005])
    assert found[:2] == pytest.approx([0.03, 0.06])
    assert math.isnan(found[2])
    assert found[3:] == pytest.approx([0.06, 0.02])
