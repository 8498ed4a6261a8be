"""The figures of results.ipynb, drawn onto matplotlib's axes from tables of results.

Colours, lines and labels are those of :mod:`fdpo.plotting`: the same for a divergence everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from fdpo.plotting import COLOURS, OTHER, method_label, method_name, parse_method, style, tidy


def plot_curves(
    axis: Any, rows: Iterable[Mapping[str, Any]], x: str, y: str, order: str = "kl"
) -> None:
    """Draws a figure against another, a line for each method through its strengths.

    Bars are one standard error.

    Arguments:
        axis: Axes of matplotlib.
        rows: A row for each method and strength, with figures ``NAME`` and ``NAME_se``.
        x: The figure along the horizontal axis.
        y: The figure along the vertical axis.
        order: The figure that says which point comes next; by default the distance.
    """
    methods: dict[str, list[Mapping[str, Any]]] = {}
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


def distance_scale(axis: Any, ticks: Sequence[float]) -> None:
    """Scales the horizontal axis by the root, over which a reward grows near the reference.

    Arguments:
        axis: Axes of matplotlib, with what they show.
        ticks: Where there may be ticks, as far as the axis goes.
    """

    def root(values: np.ndarray) -> np.ndarray:
        return np.sqrt(np.clip(values, 0, None))

    end = axis.get_xlim()[1]
    axis.set_xscale("function", functions=(root, np.square))
    shown = [tick for tick in ticks if tick <= end]
    axis.set_xticks(shown, [f"{tick:g}" for tick in shown])
    axis.set_xlim(0, end)


def plot_differences(axis: Any, rows: Iterable[Mapping[str, Any]], methods: Sequence[str]) -> None:
    """Draws differences with their intervals, a line for each method; filled if they are clear.

    Arguments:
        axis: Axes of matplotlib.
        rows: With ``method``, ``difference``, ``low``, ``high`` and ``verdict``; of what was not
            reached the line stays empty.
        methods: The methods that have a line, from the top.
    """
    rows = list(rows)
    reached = [row for row in rows if row["difference"] is not None]
    places = {method: place for place, method in enumerate(reversed(methods))}
    for row in reached:
        drawn = style(row["method"]) | {"linestyle": "none"}
        if row["verdict"] == "undecided":
            drawn["markerfacecolor"] = "white"
        ends = [[row["difference"] - row["low"]], [row["high"] - row["difference"]]]
        at = [places[row["method"]]]
        axis.errorbar([row["difference"]], at, xerr=ends, elinewidth=1.6, **drawn)
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


#: What figures are called in a question.
WORDS = {
    "gain": "reward", "entropy": "entropy", "distinct_2": "distinct-2", "nll": "held-out loss",
    "calibration_error": "calibration error", "overconfidence": "over-confidence",
}  # fmt: skip
#: What is equal there; a reward is one of so many standard deviations.
LEVELS = {
    "kl": "{} nats of reverse KL", "js": "{} nats of JS", "gain": "a reward of {}",
    "beta": "β = {}", "its": "its {}",
}  # fmt: skip


def in_words(question: str) -> str:
    """Returns a question of ``benchmarks/text_results.py`` as people say it.

    ``gain at kl 5`` is "reward at 5 nats of reverse KL".
    """
    start, slope, rest = question.rpartition("slope over α of ")
    figure, _, where = rest.partition(" at ")
    path, _, level = where.partition(" ")
    return f"{start}{slope}{WORDS[figure]} at {LEVELS[path].format(level)}"


def plot_calibration(axis: Any, rows: Iterable[Mapping[str, Any]], beta: float) -> None:
    """Draws how often each method is right against what it says, at a strength.

    Arguments:
        axis: Axes of matplotlib.
        rows: With ``method``, ``beta``, ``says``, ``right`` and ``right_se``.
        beta: The strength.
    """
    mine = [row for row in rows if row["beta"] == beta]
    axis.plot([0.5, 1], [0.5, 1], color=OTHER, linewidth=0.8, zorder=0)
    plot_curves(axis, mine, "says", "right", order="says")
    axis.set(xlabel="what the policy says", ylabel="share of pairs that it has right")


def plot_tabular(axes: Any, world: Mapping[str, Any]) -> None:
    """Draws the optima of tabular worlds at equal reward, against the reverse KL's.

    Arguments:
        axes: Three axes: for the entropy, the reverse KL and the policies of one world.
        world: What ``benchmarks/tabular.py`` wrote.
    """
    titles = {
        "entropy": "Entropy, more than reverse KL's",
        "reverse_kl": "Reverse KL, more than its own optimum's",
    }
    for axis, (figure, title) in zip(axes[:2], titles.items(), strict=True):
        for label in dict.fromkeys(row["label"] for row in world["frontier"]):
            mine = [row for row in world["frontier"] if row["label"] == label]
            names = ("share", f"{figure}_more", f"{figure}_more_se")
            shares, more, errors = ([row[name] for row in mine] for name in names)
            shade = COLOURS.get(mine[0]["divergence"], OTHER)
            axis.errorbar(
                shares, more, yerr=errors, color=shade, linewidth=1.8, elinewidth=0.8, label=label
            )
        axis.set(xlabel="share of the reward that can be had", ylabel="nats")
        axis.set_title(title, loc="left")
    equal, rewards = world["equal_reward"], world["rewards"]
    order = sorted(range(len(rewards)), key=lambda i: rewards[i])
    bars = [(OTHER, world["reference"])]
    bars += [(COLOURS.get(row["divergence"], OTHER), row["policy"]) for row in equal]
    width = 0.85 / len(bars)
    for number, (shade, policy) in enumerate(bars):
        places = [i - 0.425 + (number + 0.5) * width for i in range(len(order))]
        axes[2].bar(places, [policy[i] for i in order], width, color=shade)
    axes[2].set_xticks(range(len(order)), [f"{rewards[i]:.1f}" for i in order])
    axes[2].set(xlabel="reward of the response (grey: the reference)", ylabel="probability")
    axes[2].set_title(f"Policies at {world['share']:.0%} of the reward", loc="left")
    for axis in axes:
        tidy(axis)


def plot_digits(axes: Any, rows: Iterable[Mapping[str, Any]]) -> None:
    """Draws what came of image models by loss and strength, a row of axes for each model.

    The larger a marker the stronger the beta; those of other preference losses are hollow.

    Arguments:
        axes: Axes of matplotlib, a row for each model, three in a row.
        rows: What ``benchmarks/image_results.py`` wrote.
    """
    rows = list(rows)
    figures = {"share": "share of the target", "out_of_distribution": "share that is no digit",
               "variety": "variety (recall of real digits)"}  # fmt: skip
    sizes = {beta: 4 + 3 * i for i, beta in enumerate(sorted({row["beta"] for row in rows}))}
    for line, model in zip(axes, dict.fromkeys(row["model"] for row in rows), strict=False):
        mine = [row for row in rows if row["model"] == model]
        for axis, (figure, label) in zip(line, figures.items(), strict=True):
            for row in mine:
                drawn = style(method_name(row["loss"], row["alpha"]))
                if drawn["linestyle"] != "-":
                    drawn["markerfacecolor"] = "white"
                drawn |= {"linestyle": "none", "markersize": sizes[row["beta"]]}
                if drawn["label"] in axis.get_legend_handles_labels()[1]:
                    drawn["label"] = None
                error = row.get(f"{figure}_se")
                axis.errorbar(row["path_kl"], row[figure], yerr=error, elinewidth=0.8, **drawn)
            axis.axhline(mine[0][f"base_{figure}"], color=OTHER, linewidth=0.8, linestyle="--")
            axis.set(xlabel="path KL, nats", ylabel=label)
            axis.set_title(model, loc="left")
            tidy(axis)
