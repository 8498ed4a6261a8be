"""Results of the image sweeps: the metrics of every run, and samples of each loss from one noise.

    python -m experiments.images --sweeps runs/sweep-mnist-ddpm runs/sweep-mnist-flow

Writes ``OUTPUT.json``, and ``OUTPUT.png`` with rows of samples: of each reference and of each loss,
at its middle beta with the first seed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from experiments.measurements import to_json
from fdpo import runs
from fdpo.cli import arguments
from fdpo.cli.pool import finished_runs
from fdpo.diffusion.evaluate import HELD_OUT_SEED, sample_images
from fdpo.diffusion.images import tiled, to_image
from fdpo.diffusion.models import load_image_model
from fdpo.plotting import method_label

PROGRAM = "experiments.images"
METRICS = (
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
        default="results/mnist_sweep", metadata={"help": "names of the files without their ending"}
    )
    columns: int = field(default=14, metadata={"help": "samples in a row of the image"})


def run_rows(sweep: str) -> list[dict[str, Any]]:
    """Returns the options and the metrics of the finished runs of a sweep."""
    folders = finished_runs(Path(sweep))
    if not folders:
        raise ValueError(f"--sweeps {sweep}: no finished run there")
    return [run_row(folder) for folder in folders]


def run_row(folder: Path) -> dict[str, Any]:
    """Returns the options and the metrics of a run."""
    record = runs.read_json(folder / runs.RECORD)
    options, metrics = record["options"], runs.read_json(folder / runs.METRICS)
    return {
        "folder": folder, "model": Path(options["model"]).name, "reference": options["model"],
        **{name: options[name] for name in ("loss", "alpha", "beta", "kappa", "seed")},
        "learning_rate": options["learning_rate"], "commit": record["git_commit"],
        **{name: metrics.get(name) for name in METRICS},
    }  # fmt: skip


def labelled_models(rows: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """Returns the labels and the folders of the models to sample from."""
    models = [(f"{rows[0]['model']}: reference", rows[0]["reference"])]
    for loss, alpha in dict.fromkeys((row["loss"], row["alpha"]) for row in rows):
        mine = [row for row in rows if (row["loss"], row["alpha"]) == (loss, alpha)]
        mine = sorted((r for r in mine if r["seed"] == mine[0]["seed"]), key=lambda r: r["beta"])
        middle = mine[len(mine) // 2]
        label = f"{method_label(loss, alpha)}, β = {middle['beta']:g}"
        models.append((label, str(middle["folder"])))
    return models


def draw_samples(path: str, models: list[tuple[str, str]], columns: int) -> None:
    """Draws a row of samples for each model, all from the same noise."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.5, 0.55 * len(models)), layout="constrained")
    for axis, (label, folder) in zip(figure.subplots(len(models), 1), models, strict=True):
        row = tiled(sample_images(*load_image_model(folder), columns, seed=HELD_OUT_SEED), columns)
        axis.imshow(to_image(row), cmap="gray", vmin=0, vmax=255)
        axis.set_ylabel(label, rotation=0, ha="right", va="center", fontsize=8)
        axis.set(xticks=[], yticks=[])
    with runs.replacing(path) as beside:
        figure.savefig(beside, dpi=130, format="png")


def main() -> None:
    (args,) = arguments.parse((Arguments,), program=PROGRAM)
    with arguments.usage_errors(PROGRAM):
        tables = [run_rows(sweep) for sweep in args.sweeps]
    models = [model for rows in tables for model in labelled_models(rows)]
    draw_samples(f"{args.output}.png", models, args.columns)
    local = ("folder", "reference")
    rows = [
        {name: value for name, value in row.items() if name not in local}
        for table in tables
        for row in table
    ]
    commits = sorted({row["commit"] for row in rows})
    record = {"arguments": arguments.resolved(args), "commits": commits, "rows": rows}
    runs.write_json(f"{args.output}.json", to_json(record))


if __name__ == "__main__":
    main()
