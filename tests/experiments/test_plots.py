"""Figures of results, compared with the tables behind them."""

from __future__ import annotations

from typing import Any

import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from experiments import plots
from fdpo.plotting import COLOURS

ROWS: list[dict[str, Any]] = [
    {"method": "jsd", "kl": 5.0, "gain": 1.0, "kl_se": 0.1, "gain_se": 0.2},
    {"method": "jsd", "kl": 0.0, "gain": 0.0, "kl_se": 0.0, "gain_se": 0.0},
    {"method": "jsd", "kl": 2.0, "gain": 0.9, "kl_se": 0.1, "gain_se": 0.2},
    {"method": "fkl", "kl": None, "gain": None, "kl_se": None, "gain_se": None},
]


def test_curves_are_ordered_by_distance_without_missing_points() -> None:
    axis = Figure().subplots()
    plots.plot_curves(axis, ROWS, "kl", "gain")
    [container] = axis.containers
    assert container[0].get_xdata().tolist() == [0, 2, 5]
    assert container[0].get_ydata().tolist() == [0, 0.9, 1]
    assert to_hex(container[0].get_color()) == COLOURS["js"].lower()


def test_distance_axis_is_scaled_by_the_root() -> None:
    axis = Figure().subplots()
    plots.plot_curves(axis, ROWS, "kl", "gain")
    plots.scale_distance(axis, (0, 1, 4, 40))
    places = axis.transData.transform([(0, 0), (1, 0), (4, 0)])[:, 0]
    assert places[2] - places[0] == pytest.approx(2 * (places[1] - places[0]))
    assert axis.get_xticks().tolist() == [0, 1, 4]


def test_points_without_an_error_have_no_bar() -> None:
    axis = Figure().subplots()
    rows = [{**row, "gain_se": None} for row in ROWS[:1]]
    plots.plot_curves(axis, rows, "kl", "gain", order="gain")
    assert axis.containers[0][0].get_ydata().tolist() == [1]


def test_decided_differences_are_filled() -> None:
    rows: list[dict[str, Any]] = [
        {"method": "jsd", "difference": 0.5, "low": 0.1, "high": 0.8, "verdict": "higher"},
        {"method": "fkl", "difference": 0.2, "low": -0.1, "high": 0.4, "verdict": "undecided"},
        {"method": "ipo", "difference": None, "low": None, "high": None, "verdict": "not reached"},
    ]
    axis = Figure().subplots()
    plots.plot_differences(axis, rows, ["jsd", "ipo", "fkl"])
    names = ["forward KL", "reverse KL, squared (IPO)", "JS"]  # from below
    assert [text.get_text() for text in axis.get_yticklabels()] == names
    faces = {c[0].get_ydata()[0]: to_hex(c[0].get_markerfacecolor()) for c in axis.containers}
    assert faces == {0: "#ffffff", 2: COLOURS["js"].lower()}
    ends = axis.containers[0][2][0].get_segments()[0][:, 0].tolist()
    assert ends == pytest.approx([0.1, 0.8])


def test_reason_of_a_missing_difference_is_shown() -> None:
    axis = Figure().subplots()
    rows = [{"method": "jsd", "difference": None, "verdict": "sigmoid not reached"}]
    plots.plot_differences(axis, rows, ["jsd"])
    assert axis.texts[0].get_text() == "sigmoid not reached"
