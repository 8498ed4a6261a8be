"""Preference data from an image model's own samples, which a classifier of digits scores.

Images have no prompts: a group is a number of images in the order in which they were sampled. Each
part of the images depends on the seed and the part's number alone, so that an interrupted job
resumes with those that are missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fdpo.preferences.generate import Complete, Completion
from fdpo.runs.distributed import sharded
from fdpo.runs.seeds import derived_seed
from fdpo.scorers import Scorer

if TYPE_CHECKING:
    from torch import nn

    from fdpo.diffusion.images import Shape
    from fdpo.diffusion.noise import NoiseProcess
    from fdpo.tasks.mnist_classifier import DigitClassifier

PART = 256  # images sampled at a time


def digit_scorer(classifier: DigitClassifier, digit: int, shape: Shape) -> Scorer:
    """Returns a scorer of image files: the log-odds that they show a digit."""
    import torch

    from fdpo.diffusion.images import read_image
    from fdpo.tasks.mnist_classifier import judge

    def score(prompts: Sequence[str], paths: Sequence[str]) -> list[float]:
        images = torch.stack([read_image(path, shape) for path in paths])
        return judge(classifier, images).scores(digit).tolist()

    return score


def sample_groups(
    folder: Path,
    model: nn.Module,
    process: NoiseProcess,
    *,
    groups: int,
    group_size: int,
    steps: int,
    seed: int,
) -> Complete:
    """Samples the images of all groups into a folder and returns the function that groups them.

    Arguments:
        folder: The folder of the data set; existing images are not sampled again.
        model: The model.
        process: Its noise process.
        groups: The number of groups.
        group_size: Images of a group.
        steps: Evaluations of the model for an image.
        seed: The seed of the noise.

    Returns:
        The ``complete`` of :func:`fdpo.preferences.generate.make_dataset`, whose parts are groups.
    """
    names = write_samples(folder, model, process, groups * group_size, steps=steps, seed=seed)

    def complete(group: int, prompts: Sequence[str]) -> list[list[Completion]]:
        members = names[group * group_size : (group + 1) * group_size]
        return [[Completion(name) for name in members]]

    return complete


def write_samples(
    folder: Path, model: nn.Module, process: NoiseProcess, n: int, *, steps: int, seed: int
) -> list[str]:
    """Samples n images into ``folder / "pictures"``; returns their paths within the folder.

    The processes of a launcher share the work, in parts of :data:`PART` images.
    """
    from fdpo.diffusion.evaluate import sample_images
    from fdpo.diffusion.images import is_image, write_image

    names = [f"pictures/{i:06}.png" for i in range(n)]

    def write_part(first: int) -> None:
        part = names[first : first + PART]
        images = sample_images(
            model, process, len(part), steps=steps, seed=derived_seed(seed, first)
        )
        for name, image in zip(part, images, strict=True):
            write_image(folder / name, image)

    sharded(
        range(0, n, PART),
        write_part,
        title="sampling images",
        done=lambda first: all(is_image(folder / name) for name in names[first : first + PART]),
        size=lambda first: min(PART, n - first),
        unit="images",
    )
    return names
