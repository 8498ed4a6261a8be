"""Plots of the study on axes of matplotlib, from tables of results.

Colours, lines and labels are those of :mod:`fdpo.plotting`: the same for a divergence everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from fdpo.plotting import COLOURS, OTHER, method_label, method_name, parse_method, style, tidy

Row = Mapping[str, Any]


def plot_curves(axis: Any, rows: Iterable[Row], x: str, y: str, order: str = "kl") -> None:
    """Draws a metric against another, a line for each method through its values of beta.

    Bars are one standard error.

    Arguments:
        axis: Axes of matplotlib.
        rows: A row for each method and beta, with metrics ``NAME`` and ``NAME_se``.
        x: The metric along the horizontal axis.
        y: The metric along the vertical axis.
        order: The metric that orders the points; by default the distance.
    """
    methods: dict[str, list[Row]] = {}
    for row in rows:
        if row[x] is not None and row[y] is not None:
            methods.setdefault(row["method"], []).append(row)
    for method, points in methods.items():
        points.sort(key=lambda row: row[order])
        across, up, across_error, up_error = (
            [math.nan if row.get(name) is None else row[name] for row in points]
            for name in (x, y, f"{x}_se", f"{y}_se")
        )
        axis.errorbar(
            across, up, xerr=across_error, yerr=up_error,
            elinewidth=0.8, linewidth=1.6, **style(method),
        )  # fmt: skip
    tidy(axis)


def scale_distance(axis: Any, ticks: Sequence[float]) -> None:
    """Scales the horizontal axis by the root, over which a reward grows near the reference.

    Arguments:
        axis: Axes of matplotlib, after everything is drawn.
        ticks: The ticks, of which those within the axis are shown.
    """

    def root(values: np.ndarray) -> np.ndarray:
        return np.sqrt(np.clip(values, 0, None))

    end = axis.get_xlim()[1]
    axis.set_xscale("function", functions=(root, np.square))
    inside = [tick for tick in ticks if tick <= end]
    axis.set_xticks(inside, [f"{tick:g}" for tick in inside])
    axis.set_xlim(0, end)


def plot_differences(axis: Any, rows: Sequence[Row], methods: Sequence[str]) -> None:
    """Draws differences with their intervals, a line for each method; filled if decided.

    Arguments:
        axis: Axes of matplotlib.
        rows: With ``method``, ``difference``, ``low``, ``high`` and ``verdict``; the line of a
            method that does not reach the level stays empty.
        methods: The methods that have a line, from the top.
    """
    reached = [row for row in rows if row["difference"] is not None]
    places = {method: place for place, method in enumerate(reversed(methods))}
    for row in reached:
        look = style(row["method"]) | {"linestyle": "none"}
        if row["verdict"] == "undecided":
            look["markerfacecolor"] = "white"
        ends = [[row["difference"] - row["low"]], [row["high"] - row["difference"]]]
        place = [places[row["method"]]]
        axis.errorbar([row["difference"]], place, xerr=ends, elinewidth=1.6, **look)
    axis.set_yticks(
        list(places.values()), [method_label(*parse_method(method)) for method in places]
    )
    axis.set_ylim(-0.6, len(methods) - 0.4)
    if reached:
        axis.axvline(0, color=OTHER, linewidth=0.8, zorder=0)
        axis.locator_params(axis="x", nbins=4)
    else:
        reasons = "\n".join(sorted({row["verdict"] for row in rows}))
        axis.text(0.5, 0.5, reasons, ha="center", va="center", transform=axis.transAxes)
    axis.spines[["top", "right"]].set_visible(False)


def plot_reliability(axis: Any, rows: Iterable[Row], beta: float) -> None:
    """Draws the accuracy of each method against its probability, at a beta.

    Arguments:
        axis: Axes of matplotlib.
        rows: With ``method``, ``beta``, ``says``, ``right`` and ``right_se``.
        beta: The beta.
    """
    axis.plot([0.5, 1], [0.5, 1], color=OTHER, linewidth=0.8, zorder=0)
    plot_curves(axis, [row for row in rows if row["beta"] == beta], "says", "right", order="says")
    axis.set(xlabel="probability of the policy", ylabel="accuracy on held-out pairs")


def plot_frontier(axis: Any, rows: Sequence[Row], name: str) -> None:
    """Draws a value of the optima at each share of the reward, compared with the reverse KL's."""
    for label in dict.fromkeys(row["label"] for row in rows):
        mine = [row for row in rows if row["label"] == label]
        names = ("share", f"{name}_more", f"{name}_more_se")
        shares, more, errors = ([row[column] for row in mine] for column in names)
        shade = COLOURS.get(mine[0]["divergence"], OTHER)
        axis.errorbar(
            shares, more, yerr=errors, color=shade, linewidth=1.8, elinewidth=0.8, label=label
        )
    axis.set(xlabel="share of the reward that can be gained", ylabel="nats")


def plot_policies(axis: Any, world: Mapping[str, Any]) -> None:
    """Draws the optimal policies of one tabular world at equal reward, as bars."""
    rewards = world["rewards"]
    order = sorted(range(len(rewards)), key=lambda i: rewards[i])
    optima = [
        (COLOURS.get(row["divergence"], OTHER), row["policy"]) for row in world["equal_reward"]
    ]
    bars = [(OTHER, world["reference"]), *optima]
    width = 0.85 / len(bars)
    for number, (shade, policy) in enumerate(bars):
        places = [i - 0.425 + (number + 0.5) * width for i in range(len(order))]
        axis.bar(places, [policy[i] for i in order], width, color=shade)
    axis.set_xticks(range(len(order)), [f"{rewards[i]:.1f}" for i in order])
    axis.set(xlabel="reward of the response (grey: the reference)", ylabel="probability")
    axis.set_title(f"Policies at {world['share']:.0%} of the reward", loc="left")


def plot_points(axis: Any, rows: Sequence[Row], name: str, sizes: Mapping[float, int]) -> None:
    """Draws a metric of image models against the path KL, markers sized by beta."""
    for row in rows:
        look = style(method_name(row["loss"], row["alpha"]))
        if look["linestyle"] != "-":
            look["markerfacecolor"] = "white"
        look |= {"linestyle": "none", "markersize": sizes[row["beta"]]}
        if look["label"] in axis.get_legend_handles_labels()[1]:
            look["label"] = None
        error = row.get(f"{name}_se")
        axis.errorbar(row["path_kl"], row[name], yerr=error, elinewidth=0.8, **look)
