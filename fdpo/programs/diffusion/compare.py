"""Compares two text-to-image models on prompts: pictures from the same noise, scorers' win rates.

    python diffusion/compare.py --model runs/sd-jsd --prompts prompts.txt --scorers pickscore clip

The reference is by default the pipeline that the model was trained from. The folder it makes holds
the pictures, a page and a sheet that show them side by side, and the figures.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch
from PIL import Image

from fdpo import runs
from fdpo.cli import arguments
from fdpo.diffusion.text_to_image.compare import draw_sheet, table, win_rates, write_page
from fdpo.diffusion.text_to_image.pipeline import (
    GUIDANCE,
    STEPS,
    StableDiffusion,
    base_of,
    load_trained,
)
from fdpo.diffusion.text_to_image.scorers import get_image_scorer
from fdpo.preferences.prompts import read_prompts
from fdpo.runs.distributed import partial_state
from fdpo.runs.seeds import derived_seed


@dataclass
class CompareArguments:
    """Comparison."""

    model: str = field(metadata={"help": "policy: run folder, or hub id or folder of a pipeline"})
    prompts: str = field(
        metadata={"help": "a .txt file with one a line, or a file with a column caption or prompt"}
    )
    reference: str | None = field(
        default=None, metadata={"help": "default: what --model was trained from"}
    )
    num_prompts: int | None = field(default=None, metadata={"help": "the first so many prompts"})
    samples: int = field(default=1, metadata={"help": "pictures of a prompt"})
    scorers: list[str] = field(
        default_factory=lambda: ["pickscore"],
        metadata={"help": "pickscore, clip, aesthetics (or =MODEL), package.module:function"},
    )
    num_inference_steps: int = field(
        default=STEPS, metadata={"help": "evaluations of the model a picture"}
    )
    guidance_scale: float = field(default=GUIDANCE, metadata={"help": "1: none"})
    resolution: int | None = field(default=None, metadata={"help": "pixels; default: the model's"})
    batch_size: int = field(default=4, metadata={"help": "pictures drawn at a time"})
    dtype: str = field(default="float32", metadata={"help": "of the models: float32, bfloat16 …"})
    sheet_rows: int = field(default=16, metadata={"help": "pairs on the PNG sheet"})
    seed: int = field(default=0, metadata={"help": "of the noise"})
    output_dir: str = field(default="runs/sd-comparison", metadata={"help": "folder to make"})

    def __post_init__(self) -> None:
        for name in ("samples", "num_inference_steps", "batch_size", "sheet_rows"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name} must be at least 1, got {getattr(self, name)}")
        if not isinstance(getattr(torch, self.dtype, None), torch.dtype):
            raise ValueError(f"--dtype {self.dtype}: torch has no such dtype")


def draw(
    own: CompareArguments, model: StableDiffusion, prompts: list[str], folder: Path, name: str
) -> list[str]:
    """Draws every prompt into ``pictures``; returns the paths within the folder."""
    seeds = [derived_seed(own.seed, i) for i in range(len(prompts))]
    drawn = model.draw(
        model.unet, prompts, seeds, steps=own.num_inference_steps,
        guidance_scale=own.guidance_scale, resolution=own.resolution, batch_size=own.batch_size,
        progress=f"drawing {name}",
    )  # fmt: skip
    paths = [f"pictures/{i:05}-{name}.png" for i in range(len(drawn))]
    for path, picture in zip(paths, drawn, strict=True):
        with runs.replacing(folder / path) as beside:
            picture.save(beside)
    return paths


def main() -> None:
    (own,) = arguments.parse(
        (CompareArguments,),
        program="compare.py",
        presets="diffusion",
        description=(__doc__ or "").split("\n")[0],
    )
    device, dtype = partial_state().device, getattr(torch, own.dtype)
    with arguments.usage_errors("compare.py"):
        prompts = read_prompts(own.prompts, own.num_prompts, captions=True)
        scorers = {name: get_image_scorer(name, device) for name in own.scorers}
        names = {"policy": own.model, "reference": own.reference or base_of(own.model)}
        models = {label: load_trained(name, device, dtype) for label, name in names.items()}
        if own.resolution is not None:
            models["policy"].latent_shape(own.resolution)
        options = arguments.resolved(own)
        folder = runs.prepare(own.output_dir, options, overwrite=True)
    asked = [prompt for prompt in prompts for _ in range(own.samples)]
    paths = {label: draw(own, model, asked, folder, label) for label, model in models.items()}
    files = {label: [str(folder / path) for path in found] for label, found in paths.items()}
    figures, scores = win_rates(scorers, asked, files["policy"], files["reference"])
    runs.write_json(folder / runs.METRICS, figures)
    shown = table(own.scorers, figures)
    titles = (names["reference"], names["policy"])
    write_page(
        folder / "index.html", asked, paths["reference"], paths["policy"], scores, shown, titles
    )
    rows = slice(own.sheet_rows)
    left, right = ([Image.open(f) for f in files[label][rows]] for label in ("reference", "policy"))
    draw_sheet(folder / "sheet.png", asked[rows], left, right, titles)
    print(shown)
    print(f"{folder} holds index.html, sheet.png and the pictures")


if __name__ == "__main__":
    main()
