"""What the sweeps of images say: every cell's figures, and samples of each loss from one noise.

    python benchmarks/image_results.py --sweeps runs/sweep-mnist-ddpm runs/sweep-mnist-flow

Writes ``OUTPUT.json``, and ``OUTPUT.png`` with rows of samples: of each reference and of each loss,
at its middle strength with the first seed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from text_runs import plain

from fdpo import runs
from fdpo.cli import arguments
from fdpo.diffusion.evaluate import HELD_OUT_SEED, sample_images
from fdpo.diffusion.images import tiled, to_image
from fdpo.diffusion.models import load_image_model
from fdpo.plotting import method_label

FIGURES = (
    "share", "share_se", "out_of_distribution", "out_of_distribution_se", "variety", "path_kl",
    "path_kl_se", "base_share", "base_share_se", "base_out_of_distribution", "base_variety",
)  # fmt: skip


@dataclass
class Arguments:
    """Results of sweeps of images."""

    sweeps: list[str] = field(
        default_factory=lambda: ["runs/sweep-mnist-ddpm", "runs/sweep-mnist-flow"],
        metadata={"help": "folders of the sweeps, one for each model"},
    )
    output: str = field(
        default="results/mnist_sweep", metadata={"help": "the files' names without ending"}
    )
    columns: int = field(default=14, metadata={"help": "samples in a row of the picture"})


def cells(sweep: str) -> list[dict[str, Any]]:
    """Returns the finished cells of a sweep: what was run and what came of it."""
    folders = sorted(path.parent for path in Path(sweep).glob(f"cells/*/{runs.METRICS}"))
    if not folders:
        raise ValueError(f"--sweeps {sweep}: no finished cell there")
    rows = []
    for folder in folders:
        record, metrics = (
            runs.read_json(folder / runs.RECORD),
            runs.read_json(folder / runs.METRICS),
        )
        options = record["options"]
        rows.append({
            "folder": folder, "model": Path(options["model"]).name, "reference": options["model"],
            **{name: options[name] for name in ("loss", "alpha", "beta", "kappa", "seed")},
            "learning_rate": options["learning_rate"], "commit": record["git_commit"],
            **{name: metrics.get(name) for name in FIGURES},
        })  # fmt: skip
    return rows


def shown(rows: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """Returns what the picture shows: labels and model folders."""
    first = rows[0]
    found = [(f"{first['model']}: reference", first["reference"])]
    for loss, alpha in dict.fromkeys((row["loss"], row["alpha"]) for row in rows):
        mine = [row for row in rows if (row["loss"], row["alpha"]) == (loss, alpha)]
        mine = sorted((r for r in mine if r["seed"] == mine[0]["seed"]), key=lambda r: r["beta"])
        middle = mine[len(mine) // 2]
        found.append(
            (f"{method_label(loss, alpha)}, β = {middle['beta']:g}", str(middle["folder"]))
        )
    return found


def draw(path: str, lines: list[tuple[str, str]], columns: int) -> None:
    """Draws a row of samples for each model, all from the same noise."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.5, 0.55 * len(lines)), layout="constrained")
    for axis, (label, model) in zip(figure.subplots(len(lines), 1), lines, strict=True):
        pictures = sample_images(*load_image_model(model), columns, seed=HELD_OUT_SEED)
        row = tiled(pictures, columns)
        axis.imshow(to_image(row), cmap="gray", vmin=0, vmax=255)
        axis.set_ylabel(label, rotation=0, ha="right", va="center", fontsize=8)
        axis.set(xticks=[], yticks=[])
    with runs.replacing(path) as beside:
        figure.savefig(beside, dpi=130, format="png")


def main() -> None:
    (own,) = arguments.parse((Arguments,), program="image_results.py")
    with arguments.usage_errors("image_results.py"):
        tables = [cells(sweep) for sweep in own.sweeps]
    draw(f"{own.output}.png", [line for rows in tables for line in shown(rows)], own.columns)
    kept = [
        {name: value for name, value in row.items() if name not in ("folder", "reference")}
        for rows in tables
        for row in rows
    ]
    commits = sorted({row["commit"] for row in kept})
    runs.write_json(
        f"{own.output}.json",
        plain({"arguments": arguments.resolved(own), "commits": commits, "rows": kept}),
    )


if __name__ == "__main__":
    main()
