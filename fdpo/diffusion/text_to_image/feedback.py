"""Preference data from a text-to-image model's own images of prompts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fdpo.diffusion.images import is_image, write_image
from fdpo.diffusion.text_to_image.pipeline import StableDiffusion
from fdpo.preferences.generate import Complete, Completion
from fdpo.runs.seeds import derived_seed


def completer(
    folder: Path, model: StableDiffusion, *, group_size: int, seed: int, **options: Any
) -> Complete:
    """Returns the function that samples the images of a prompt into a folder.

    An image depends on the prompt, its number, the image's number and the seed alone; existing
    images are not sampled again.

    Arguments:
        folder: The folder of the data set.
        model: The model.
        group_size: Images of a prompt.
        seed: The seed of the noise.
        options: Options of :meth:`StableDiffusion.generate`.

    Returns:
        The ``complete`` of :func:`fdpo.preferences.generate.make_dataset`, whose parts are prompts.
    """

    def complete(number: int, prompts: Sequence[str]) -> list[list[Completion]]:
        [prompt] = prompts
        names = [f"pictures/{number:06}-{i}.png" for i in range(group_size)]
        missing = [i for i, name in enumerate(names) if not is_image(folder / name)]
        seeds = [derived_seed(seed, number, i) for i in missing]
        images = model.generate(model.unet, [prompt] * len(missing), seeds, **options)
        for i, image in zip(missing, images, strict=True):
            write_image(folder / names[i], image)
        return [[Completion(name) for name in names]]

    return complete
