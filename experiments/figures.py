"""Figures of results.ipynb and of README.md, from tables of results.

python -m experiments.figures --output docs/rewards.png
"""

from __future__ import annotations

import math
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from matplotlib import pyplot as plt

from experiments.plots import (
    Row,
    plot_curves,
    plot_differences,
    plot_frontier,
    plot_points,
    plot_policies,
    plot_reliability,
    scale_distance,
)
from experiments.tables import comparisons, question_label
from fdpo import runs
from fdpo.cli import arguments
from fdpo.plotting import OTHER, plot_links, tidy

PROGRAM = "experiments.figures"
NATS, FAR_NATS, JS_NATS = (
    (0, 0.5, 1, 2, 5, 10, 20),
    (0, 2, 10, 20, 40, 80),
    (0, 0.1, 0.4, 0.8, 1.1, 1.39),
)
"""Ticks of the axes of distance."""


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


def trained_rows(curves: Mapping[str, Any]) -> list[Row]:
    """Returns the rows of trained models, without the reference."""
    return [row for row in curves["rows"] if row["beta"]]


def show_with_legend(figure: Any, axis: Any, columns: int = 6) -> None:
    """Shows a figure with the legend of one pair of axes below it."""
    figure.legend(
        *axis.get_legend_handles_labels(), loc="outside lower center", ncols=columns, frameon=False
    )
    plt.show()


@dataclass
class Arguments:
    """Figure of README.md."""

    results: str = field(default="results", metadata={"help": "folder of the results"})
    output: str = field(default="docs/rewards.png", metadata={"help": "PNG file to write"})


def save_rewards(curves: Mapping[str, Any], path: str) -> None:
    """Draws the rewards of a text sweep near the reference, in one panel, into a file."""
    figure, axis = plt.subplots(figsize=(7, 4.2), layout="constrained")
    near = [row for row in curves["rows"] if (row["kl"] or 0) <= NATS[-1]]
    plot_curves(axis, near, "kl", "gain")
    axis.set(
        xlabel="distance from the reference: reverse KL of a completion, nats",
        ylabel="reward gained,\nstandard deviations of the reference's",
    )
    scale_distance(axis, NATS)
    figure.legend(*axis.get_legend_handles_labels(), loc="outside right center", frameon=False)
    with runs.replacing(path) as beside:
        figure.savefig(beside, dpi=130, format="png")
    plt.close(figure)


def main() -> None:
    (args,) = arguments.parse((Arguments,), program=PROGRAM)
    with arguments.usage_errors(PROGRAM):
        curves = runs.read_json(Path(args.results) / "text_curves.json")
    save_rewards(curves, args.output)


if __name__ == "__main__":
    main()
