"""Draws samples of an image model, and says what they show.

python diffusion/sample.py --model runs/diffusion-jsd --output samples.png
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from fdpo.cli import arguments
from fdpo.diffusion.evaluate import Report, sample_images
from fdpo.diffusion.images import tiled, write_image
from fdpo.diffusion.models import image_shape, load
from fdpo.diffusion.noise import STEPS
from fdpo.runs.distributed import keep_freed_memory, partial_state
from fdpo.tasks import PRETRAINED
from fdpo.tasks.mnist import judge, load_classifier, require_size


@dataclass
class SampleArguments:
    """Samples."""

    model: str = field(
        default=str(PRETRAINED / "mnist-ddpm"),
        metadata={"help": "folder or hub id of an unconditional model"},
    )
    samples: int = field(default=100, metadata={"help": "pictures"})
    columns: int = field(default=10, metadata={"help": "pictures in a row of the sheet"})
    sampling_steps: int = field(
        default=STEPS, metadata={"help": "evaluations of the model a picture"}
    )
    seed: int = field(default=0, metadata={"help": "of the noise"})
    output: str = field(
        default="samples.png", metadata={"help": "a PNG file, or a folder for single pictures"}
    )
    classifier: str = field(
        default=str(PRETRAINED / "mnist-classifier"),
        metadata={"help": "of digits: folder; none: only draw"},
    )

    def __post_init__(self) -> None:
        for name in ("samples", "columns", "sampling_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name} must be at least 1, got {getattr(self, name)}")


def main() -> None:
    keep_freed_memory()
    (own,) = arguments.parse(
        (SampleArguments,),
        program="sample.py",
        presets="diffusion",
        description=(__doc__ or "").split("\n")[0],
    )
    with arguments.usage_errors("sample.py"):
        model, process = load(own.model, partial_state().device)
        judge_of_digits = None
        if own.classifier != "none":
            judge_of_digits = load_classifier(own.classifier, partial_state().device)
            require_size(image_shape(model), own.classifier)
    pictures = sample_images(
        model, process, own.samples, steps=own.sampling_steps, seed=own.seed, progress="sampling"
    )
    if judge_of_digits is not None:
        shown = Report(pictures, judge(judge_of_digits, pictures))
        names = [*map(str, range(10)), "none"]
        for name, share, error in zip(names, shown.histogram, shown.histogram_errors, strict=True):
            print(f"{name:>4}  {share:.3f} ± {error:.3f}")
    if own.output.endswith(".png"):
        write_image(own.output, tiled(pictures, own.columns))
    else:
        for number, picture in enumerate(pictures):
            write_image(Path(own.output) / f"{number:06}.png", picture)
    print(own.output)


if __name__ == "__main__":
    main()
