"""Compares two text-to-image models: images from the same noise, win rates of scorers.

    python diffusion/compare.py --model runs/sd-jsd --prompts prompts.txt --scorers pickscore clip

The reference is by default the pipeline that the model was trained from. The output folder holds
the images, a page and a sheet that show them side by side, and the metrics.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from fdpo.cli import arguments
from fdpo.cli.program import Run
from fdpo.cli.quiet import quiet_libraries
from fdpo.cli.values import require_dtype
from fdpo.diffusion.images import write_image
from fdpo.diffusion.text_to_image.config import GUIDANCE, STEPS
from fdpo.diffusion.text_to_image.win_rates import win_rate_table, win_rates
from fdpo.preferences.prompts import read_prompts
from fdpo.runs.distributed import partial_state
from fdpo.runs.seeds import derived_seed

if TYPE_CHECKING:  # importing diffusers takes seconds, which --help and usage errors do without
    from fdpo.diffusion.text_to_image.pipeline import PipelineSource, StableDiffusion
    from fdpo.scorers import Scorer

PROGRAM = "compare.py"


@dataclass
class CompareArguments:
    """Comparison."""

    model: str = field(metadata={"help": "policy: run folder, or hub id or folder of a pipeline"})
    prompts: str = field(
        metadata={"help": "a .txt file, one per line, or a file with a column caption or prompt"}
    )
    reference: str | None = field(
        default=None, metadata={"help": "default: the pipeline that --model was trained from"}
    )
    revision: str | None = field(
        default=None, metadata={"help": "of the hub's repository; of a run: as it was trained"}
    )
    variant: str | None = field(
        default=None,
        metadata={"help": "of the weights' files: fp16 …; of a run: as it was trained"},
    )
    num_prompts: int | None = field(default=None, metadata={"help": "use the first prompts only"})
    samples: int = field(default=1, metadata={"help": "images per prompt"})
    scorers: list[str] = field(
        default_factory=lambda: ["pickscore"],
        metadata={"help": "pickscore, clip, aesthetics (or =MODEL), package.module:function"},
    )
    num_inference_steps: int = field(default=STEPS, metadata={"help": "denoising steps per image"})
    guidance_scale: float = field(default=GUIDANCE, metadata={"help": "1: none"})
    resolution: int | None = field(default=None, metadata={"help": "pixels; default: the model's"})
    batch_size: int = field(default=4, metadata={"help": "images generated at a time"})
    dtype: str = field(default="float32", metadata={"help": "of the models: float32, bfloat16 …"})
    sheet_rows: int = field(default=16, metadata={"help": "pairs on the PNG sheet"})
    seed: int = field(default=0, metadata={"help": "of the noise"})
    output_dir: str = field(default="runs/sd-comparison", metadata={"help": "output folder"})

    def __post_init__(self) -> None:
        require_dtype(self.dtype)


def load_prompts(args: CompareArguments) -> list[str]:
    """Returns the prompt of each image."""
    prompts = read_prompts(args.prompts, args.num_prompts, captions=True)
    return [prompt for prompt in prompts for _ in range(args.samples)]


def load_scorers(args: CompareArguments) -> dict[str, Scorer]:
    """Loads the scorers by name and tries them."""
    from fdpo.diffusion.text_to_image.scorers import get_image_scorer, try_scorers

    scorers = {name: get_image_scorer(name, partial_state().device) for name in args.scorers}
    try_scorers(scorers.values())
    return scorers


def model_sources(args: CompareArguments) -> dict[str, PipelineSource]:
    """Returns the models by role, ``policy`` and ``reference``.

    A run, and the pipeline that it was trained from, are loaded as they were for its training;
    ``--revision`` and ``--variant`` are those of other pipelines.
    """
    from fdpo.diffusion.text_to_image.pipeline import PipelineSource
    from fdpo.runs.folder import run_options

    is_run = bool(run_options(args.model))
    options = {"revision": args.revision, "variant": args.variant}
    policy = PipelineSource(args.model, **({} if is_run else options))
    base = PipelineSource.from_run(args.model) if is_run or not args.reference else None
    if base is not None and args.reference in (None, base.name):
        reference = base
    else:
        other = str(args.reference)
        reference = PipelineSource(other, **({} if run_options(other) else options))
    for name, value in options.items():
        if value and value not in (getattr(policy, name), getattr(reference, name)):
            raise ValueError(
                f"--{name} {value} has no effect: a run and the pipeline it was trained from are "
                f"loaded as they were for its training ({name} {getattr(reference, name)})"
            )
    return {"policy": policy, "reference": reference}


def load_models(
    args: CompareArguments, sources: dict[str, PipelineSource]
) -> dict[str, StableDiffusion]:
    """Loads the models by role."""
    import torch

    device, dtype = partial_state().device, getattr(torch, args.dtype)
    models = {
        role: source.load(device, dtype=dtype, unet_dtype=dtype) for role, source in sources.items()
    }
    if args.resolution is not None:
        models["policy"].latent_shape(args.resolution)
    return models


def generate(
    args: CompareArguments, model: StableDiffusion, prompts: list[str], folder: Path, role: str
) -> list[str]:
    """Generates an image of every prompt into ``pictures``; returns the paths in the folder."""
    seeds = [derived_seed(args.seed, i) for i in range(len(prompts))]
    images = model.generate(
        model.unet, prompts, seeds, steps=args.num_inference_steps,
        guidance_scale=args.guidance_scale, resolution=args.resolution,
        batch_size=args.batch_size, progress=f"generating {role}",
    )  # fmt: skip
    paths = [f"pictures/{i:05}-{role}.png" for i in range(len(images))]
    for path, image in zip(paths, images, strict=True):
        write_image(folder / path, image)
    return paths


def write_report(
    folder: Path,
    prompts: list[str],
    paths: dict[str, list[str]],
    scores: dict[str, list[tuple[float, float]]],
    table: str,
    titles: tuple[str, str],
    sheet_rows: int,
) -> None:
    """Writes ``index.html`` with all pairs and ``sheet.png`` with the first ones."""
    from PIL import Image

    from fdpo.diffusion.text_to_image.sheets import write_page, write_sheet

    left, right = paths["reference"], paths["policy"]
    write_page(folder / "index.html", prompts, left, right, scores, table, titles)
    rows = slice(sheet_rows)
    images, others = ([Image.open(folder / path) for path in side[rows]] for side in (left, right))
    write_sheet(folder / "sheet.png", prompts[rows], images, others, titles)


def main() -> None:
    quiet_libraries()
    (args,) = arguments.parse(
        (CompareArguments,),
        program=PROGRAM,
        presets="diffusion",
        description=(__doc__ or "").split("\n")[0],
    )
    options = arguments.resolved(args)
    with Run(PROGRAM, args.output_dir, options, overwrite=True) as run:
        prompts, sources = load_prompts(args), model_sources(args)
        scorers, models = load_scorers(args), load_models(args, sources)
        run.start()
        folder = run.folder
        paths = {r: generate(args, model, prompts, folder, r) for r, model in models.items()}
        policy, reference = (
            [str(folder / path) for path in paths[role]] for role in ("policy", "reference")
        )
        metrics, scores = win_rates(scorers, prompts, policy, reference)
        table = win_rate_table(args.scorers, metrics)
        titles = sources["reference"].name, sources["policy"].name
        print(table)
        with run.reporting("page"):
            write_report(folder, prompts, paths, scores, table, titles, args.sheet_rows)
            print(f"images side by side: {folder / 'index.html'}, {folder / 'sheet.png'}")
        run.finish(metrics)


if __name__ == "__main__":
    main()
