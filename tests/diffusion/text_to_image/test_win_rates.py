"""Win rates of scorers and their intervals."""

import pytest
from scipy.optimize import brentq

from fdpo.diffusion.text_to_image.win_rates import Z, wilson, win_rate, win_rate_table, win_rates


@pytest.mark.parametrize(("wins", "n"), [(0, 10), (7, 10), (10, 10), (250, 500)])
def test_wilsons_interval_ends_z_standard_errors_from_the_share(wins: int, n: int) -> None:
    share = wins / n
    low, high = wilson(share, n)
    gap = lambda p: (share - p) ** 2 - Z**2 * p * (1 - p) / n  # noqa: E731
    assert low == pytest.approx(brentq(gap, 0, share - 1e-6) if wins else 0, abs=1e-9)
    assert high == pytest.approx(brentq(gap, share + 1e-6, 1) if wins < n else 1, abs=1e-9)


def test_ties_count_half_and_the_interval_is_over_prompts() -> None:
    metrics = win_rate([1, 2, 3, 4], [0, 2, 4, 1], prompts=2)
    assert metrics["win_rate"] == 2.5 / 4
    assert metrics["mean"] == 2.5 and metrics["base_mean"] == 7 / 4
    assert (metrics["win_rate_low"], metrics["win_rate_high"]) == wilson(2.5 / 4, 2)


def test_scorers_score_the_images_of_both_models() -> None:
    scorers = {"length": lambda prompts, paths: [float(len(path)) for path in paths]}
    metrics, scores = win_rates(scorers, ["a", "b"], ["x", "xxxx"], ["xx", "xx"])
    assert scores == {"length": [(1, 2), (4, 2)]} and metrics["length_win_rate"] == 0.5
    assert "0.500 [" in win_rate_table(["length"], metrics)
