"""Curves and their values at levels, on curves whose values are known."""

from __future__ import annotations

import pytest
import torch

from experiments.curves import at_beta, crossing, ordered_crossing


class TestCrossing:
    path = torch.tensor([0.0, 2.0, 6.0], dtype=torch.float64)
    values = torch.tensor([0.0, 1.0, 5.0], dtype=torch.float64)

    @pytest.mark.parametrize(("level", "value"), [(0, 0), (1, 0.5), (2, 1), (5, 4), (6, 5)])
    def test_joins_points_by_straight_lines(self, level: float, value: float) -> None:
        assert crossing(self.path, self.values, level).item() == pytest.approx(value)

    def test_is_missing_beyond_the_last_point(self) -> None:
        assert crossing(self.path, self.values, 6.01).isnan()

    def test_takes_the_first_crossing_of_a_path_that_turns(self) -> None:
        path = torch.tensor([0.0, 2.0, 1.0, 3.0])
        values = torch.tensor([0.0, 10.0, 20.0, 30.0])
        assert crossing(path, values, 1.5).item() == pytest.approx(7.5)

    def test_a_flat_piece_has_the_value_at_its_beginning(self) -> None:
        path, values = torch.tensor([1.0, 1.0, 2.0]), torch.tensor([3.0, 4.0, 5.0])
        assert crossing(path, values, 1.0).item() == 3

    def test_points_are_taken_in_the_order_of_their_distance(self) -> None:
        shuffled = torch.tensor([2, 0, 1])
        result = ordered_crossing(
            self.path[shuffled], self.path[shuffled], self.values[shuffled], level=5
        )
        assert result.item() == pytest.approx(4)

    def test_many_curves_at_once(self) -> None:
        paths = torch.stack([self.path, 2 * self.path, self.path / 10])
        result = crossing(paths, self.values.expand(3, 3), 2.0)
        assert result[:2].tolist() == pytest.approx([1, 0.5])
        assert result[2].isnan()


def test_a_metric_between_two_betas_is_on_the_line_over_their_logarithm() -> None:
    gains = torch.tensor([[[[0.0, 3.0, 1.0, 0.5]]]], dtype=torch.float64)  # first the reference's
    assert at_beta(gains, [0.01, 0.1, 1], 0.1).item() == 1
    between = at_beta(gains, [0.01, 0.1, 1], 0.01 * 10**0.25).item()
    assert between == pytest.approx(2.5, rel=1e-9)
    assert at_beta(gains, [0.01, 0.1, 1], 2).isnan().all()
