"""Samples images from a model and prints the share of each digit.

python diffusion/sample.py --model runs/diffusion-jsd --output samples.png
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from fdpo.cli import arguments
from fdpo.cli.quiet import quiet_libraries
from fdpo.diffusion.images import tiled, write_image
from fdpo.diffusion.noise import STEPS
from fdpo.runs.distributed import keep_freed_memory, partial_state
from fdpo.tasks.mnist import CLASSIFIER, MODEL


@dataclass
class SampleArguments:
    """Samples."""

    model: str = field(
        default=str(MODEL),
        metadata={"help": "folder or hub id of an unconditional model"},
    )
    samples: int = field(default=100, metadata={"help": "number of images"})
    columns: int = field(default=10, metadata={"help": "images in a row of the PNG file"})
    sampling_steps: int = field(default=STEPS, metadata={"help": "model evaluations per image"})
    seed: int = field(default=0, metadata={"help": "of the noise"})
    output: str = field(
        default="samples.png", metadata={"help": "a PNG file, or a folder of single images"}
    )
    classifier: str = field(
        default=str(CLASSIFIER),
        metadata={"help": "of digits: folder; none: only sample"},
    )


def write_images(args: SampleArguments, images: Tensor) -> None:
    """Writes the images to one PNG file or to a folder."""
    if args.output.endswith(".png"):
        write_image(args.output, tiled(images, args.columns))
        return
    for number, image in enumerate(images):
        write_image(Path(args.output) / f"{number:06}.png", image)


def main() -> None:
    quiet_libraries()
    (args,) = arguments.parse(
        (SampleArguments,),
        program="sample.py",
        presets="diffusion",
        description=(__doc__ or "").split("\n")[0],
    )
    from fdpo.diffusion.evaluate import sample_images
    from fdpo.diffusion.models import image_shape, load_image_model
    from fdpo.tasks.mnist_classifier import judge, load_classifier, require_size
    from fdpo.tasks.mnist_report import CLASSES, Report

    keep_freed_memory()
    with arguments.usage_errors("sample.py"):
        model, process = load_image_model(args.model, partial_state().device)
        classifier = None
        if args.classifier != "none":
            classifier = load_classifier(args.classifier, partial_state().device)
            require_size(image_shape(model), args.classifier)
    images = sample_images(
        model, process, args.samples, steps=args.sampling_steps, seed=args.seed, progress="sampling"
    )
    if classifier is not None:
        report = Report(images, judge(classifier, images))
        shares = zip(CLASSES, report.histogram, report.histogram_errors, strict=True)
        for name, share, error in shares:
            print(f"{name:>4}  {share:.3f} ± {error:.3f}")
    write_images(args, images)
    print(args.output)


if __name__ == "__main__":
    main()
