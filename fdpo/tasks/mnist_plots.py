"""Pictures of what a run did: samples before and after, and what they show."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from fdpo.diffusion.evaluate import Report
from fdpo.diffusion.images import tiled, to_image
from fdpo.runs.files import replacing

COLOURS = ("#999999", "#0072B2", "#E69F00", "#009E73")


def draw_samples(path: str | Path, before: Tensor, after: Tensor, columns: int = 10) -> None:
    """Draws samples before and after, side by side, from the same noise."""
    from matplotlib.figure import Figure

    n = columns * columns
    figure = Figure(figsize=(10, 5.4), layout="constrained")
    for axis, pictures, title in zip(
        figure.subplots(1, 2),
        (before, after),
        ("before", "after, from the same noise"),
        strict=True,
    ):
        axis.imshow(to_image(tiled(pictures[:n], columns)), cmap="gray", vmin=0, vmax=255)
        axis.set_title(title)
        axis.set_axis_off()
    with replacing(path) as beside:
        figure.savefig(beside, dpi=120)


def draw_histogram(path: str | Path, reports: Mapping[str, Report], target: int) -> None:
    """Draws the share of each digit, and of what is none, with one standard error."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.6), layout="constrained")
    axis = figure.subplots()
    width = 0.8 / len(reports)
    for i, (label, report) in enumerate(reports.items()):
        places = [digit - 0.4 + (i + 0.5) * width for digit in range(len(report.histogram))]
        axis.bar(
            places, report.histogram, width, yerr=report.histogram_errors,
            label=label, color=COLOURS[i % len(COLOURS)], error_kw={"linewidth": 1},
        )  # fmt: skip
    digits = [str(digit) for digit in range(10)]
    axis.set_xticks(range(11), [*digits, "none"])
    axis.get_xticklabels()[target].set_fontweight("bold")
    axis.set_xlabel("what the picture shows (none: out of distribution)")
    axis.set_ylabel("share of samples")
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False)
    with replacing(path) as beside:
        figure.savefig(beside, dpi=120)
