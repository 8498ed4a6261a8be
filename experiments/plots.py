"""Figures of results.ipynb, from tables of results.

Colours, lines and labels are those of :mod:`fdpo.plotting`: the same for a divergence everywhere.
"""

from __future__ import annotations

import math
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import pyplot as plt

from experiments.tables import comparisons, question_label
from fdpo.plotting import (
    COLOURS,
    OTHER,
    method_label,
    method_name,
    parse_method,
    plot_links,
    style,
    tidy,
)

Row = Mapping[str, Any]
NATS, FAR_NATS, JS_NATS = (
    (0, 0.5, 1, 2, 5, 10, 20),
    (0, 2, 10, 20, 40, 80),
    (0, 0.1, 0.4, 0.8, 1.1, 1.39),
)
"""Ticks of the axes of distance."""


# --- whole figures ---


def plot_rewards(curves: Mapping[str, Any]) -> None:
    """Draws the rewards of a text sweep against the distance from the reference."""
    figure, grid = plt.subplots(2, 2, figsize=(11, 8.4))
    reward = "reward gained,\nstandard deviations of the base"
    panels = (
        ("Reward near the reference", "kl", "gain", reward, NATS, 20),
        ("Reward as far as the policies went", "kl", "gain", reward, FAR_NATS, None),
        ("Reward against JS", "js", "gain", reward, JS_NATS, None),
        ("Another reward", "kl", "vader", "VADER's compound score gained", NATS, 20),
    )
    for axis, (title, x, y, label, ticks, end) in zip(grid.flat, panels, strict=True):
        near = [row for row in curves["rows"] if end is None or (row[x] or 0) <= end]
        plot_curves(axis, near, x, y)
        axis.set(xlabel=curves["units"][x], ylabel=label)
        scale_distance(axis, ticks)
        axis.set_title(title, loc="left")
    show_with_legend(figure, grid[0, 0])


def plot_diversity(curves: Mapping[str, Any]) -> None:
    """Draws the entropy and distinct-2 of a text sweep against the reward."""
    titles = {
        "entropy": "Entropy of the next token",
        "distinct_2": "Distinct word pairs among samples of a prompt",
    }
    figure, axes = plt.subplots(1, 2, figsize=(10.5, 4.2))
    for axis, (metric, title) in zip(axes, titles.items(), strict=True):
        plot_curves(axis, curves["rows"], "gain", metric)
        axis.set(xlabel=curves["units"]["gain"], ylabel=curves["units"][metric])
        axis.set_title(title, loc="left")
    show_with_legend(figure, axes[0])


def plot_questions(questions: Mapping[str, Any]) -> None:
    """Draws the differences of a text sweep from the baseline, a panel for each question."""
    rows = comparisons(questions)
    names = list(dict.fromkeys(row["question"] for row in rows))
    methods = list(dict.fromkeys(row["method"] for row in rows))
    lines = math.ceil(len(names) / 4)
    figure, grid = plt.subplots(lines, 4, figsize=(12, 2.7 * lines), sharey=True)
    for axis, name in zip(grid.flat, names, strict=False):
        plot_differences(axis, [row for row in rows if row["question"] == name], methods)
        axis.set_title(question_label(name), loc="left", fontsize=8)
    for axis in list(grid.flat)[len(names) :]:
        axis.set_axis_off()
    figure.supxlabel(
        "difference from reverse KL (DPO); bars: 95 % intervals; rewards in standard deviations "
        "of the reference's, entropy and loss in nats, the rest in shares\n"
        "filled: decided after Holm's correction; hollow: undecided; "
        "no point: predicts no probability (hinge, IPO), or does not reach the level"
    )
    plt.show()


def plot_calibration(calibration: Mapping[str, Any], curves: Mapping[str, Any]) -> None:
    """Draws the calibration of a text sweep at two values of beta, and against the distance."""
    figure, grid = plt.subplots(2, 2, figsize=(9.5, 7.6))
    axes = list(grid.flat)
    for axis, beta in zip(axes[:2], calibration_betas(calibration["rows"]), strict=True):
        plot_reliability(axis, calibration["rows"], beta)
        axis.set_title(f"β = {beta:g}", loc="left")
    titles = {"calibration_error": "Calibration error", "nll": "Held-out loss"}
    units = curves["units"]
    for axis, (metric, title) in zip(axes[2:], titles.items(), strict=True):
        plot_curves(axis, trained_rows(curves), "kl", metric)
        label = units[metric].replace("likelihood of", "likelihood\nof")
        axis.set(xlabel=units["kl"], ylabel=label)
        scale_distance(axis, FAR_NATS)
        axis.set_title(f"{title} against distance", loc="left")
    axes[3].set(yscale="log", yticks=(0.4, 0.6, 0.8, 1), yticklabels=("0.4", "0.6", "0.8", "1"))
    axes[3].minorticks_off()
    show_with_legend(figure, axes[3])


def calibration_betas(rows: Iterable[Row]) -> tuple[float, float]:
    """Returns the second and the last but one of the betas that most methods have."""
    counts = Counter(beta for _, beta in {(row["method"], row["beta"]) for row in rows})
    betas = sorted(beta for beta in counts if counts[beta] == max(counts.values()))
    return betas[1 % len(betas)], betas[-2]


def plot_completions(curves: Mapping[str, Any]) -> None:
    """Draws the calibration of the sweep on another model's completions against beta."""
    labels = {
        "accuracy": "accuracy",
        "nll": "negative log-likelihood, nats",
        "calibration_error": "calibration error, less noise",
    }
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.9))
    for axis, (metric, label) in zip(axes, labels.items(), strict=True):
        plot_curves(axis, trained_rows(curves), "beta", metric, order="beta")
        axis.set(xscale="log", xlabel="β, weak to strong", ylabel=label)
    show_with_legend(figure, axes[0])


def plot_distances(curves: Mapping[str, Any]) -> None:
    """Draws the distance from the reference at the end of training against beta."""
    figure, axis = plt.subplots(figsize=(7, 4.2))
    plot_curves(axis, trained_rows(curves), "beta", "kl", order="beta")
    label = curves["units"]["kl"]
    axis.set(xscale="log", yscale="log", xlabel="β, weak to strong", ylabel=label)
    axis.set_title("Distance of a policy after training", loc="left")
    show_with_legend(figure, axis, columns=4)


def plot_tabular(world: Mapping[str, Any]) -> None:
    """Draws the optima of tabular worlds at equal reward, compared with the reverse KL's.

    Arguments:
        world: The results of ``experiments.tabular``.
    """
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.9))
    titles = {
        "entropy": "Entropy, more than reverse KL's",
        "reverse_kl": "Reverse KL, more than its own optimum's",
    }
    for axis, (name, title) in zip(axes[:2], titles.items(), strict=True):
        plot_frontier(axis, world["frontier"], name)
        axis.set_title(title, loc="left")
    plot_policies(axes[2], world)
    for axis in axes:
        tidy(axis)
    show_with_legend(figure, axes[0])


def plot_digits(rows: Sequence[Row]) -> None:
    """Draws the metrics of image models against their path KL, a row of axes for each model.

    Larger markers stand for a larger beta; those of other preference losses are hollow.

    Arguments:
        rows: The rows of ``experiments.images``.
    """
    figure, grid = plt.subplots(2, 3, figsize=(11, 6), sharex="row")
    labels = {
        "share": "share of the target",
        "out_of_distribution": "share that is no digit",
        "variety": "variety (recall of real digits)",
    }
    sizes = {beta: 4 + 3 * i for i, beta in enumerate(sorted({row["beta"] for row in rows}))}
    for line, model in zip(grid, dict.fromkeys(row["model"] for row in rows), strict=False):
        mine = [row for row in rows if row["model"] == model]
        for axis, (name, label) in zip(line, labels.items(), strict=True):
            plot_points(axis, mine, name, sizes)
            axis.axhline(mine[0][f"base_{name}"], color=OTHER, linewidth=0.8, linestyle="--")
            axis.set(xlabel="path KL, nats", ylabel=label)
            axis.set_title(model, loc="left")
            tidy(axis)
    show_with_legend(figure, grid[0, 0])


def links_png() -> bytes:
    """Returns the image of links and slopes, as a PNG file."""
    with tempfile.TemporaryDirectory() as folder:
        plot_links(file := Path(folder) / "links.png")
        return file.read_bytes()


# --- one pair of axes ---


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


def trained_rows(curves: Mapping[str, Any]) -> list[Row]:
    """Returns the rows of trained models, without the reference."""
    return [row for row in curves["rows"] if row["beta"]]


def show_with_legend(figure: Any, axis: Any, columns: int = 6) -> None:
    """Shows a figure with the legend of one pair of axes below it."""
    figure.legend(
        *axis.get_legend_handles_labels(), loc="outside lower center", ncols=columns, frameon=False
    )
    plt.show()
