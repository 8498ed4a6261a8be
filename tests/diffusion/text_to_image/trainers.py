"""A trainer of a tiny Stable Diffusion on eight pairs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fdpo.diffusion import DiffusionTrainer
from fdpo.diffusion.text_to_image.config import StableDiffusionConfig
from fdpo.diffusion.text_to_image.dataset import TextToImagePairs
from fdpo.diffusion.text_to_image.latents import LatentCache
from fdpo.diffusion.text_to_image.load_pairs import load_captioned_pairs
from fdpo.diffusion.text_to_image.pipeline import StableDiffusion
from fdpo.diffusion.text_to_image.transforms import PairTransform
from tests.diffusion.tiny import reset_accelerate

Pipelines = Callable[..., str]
every_kind = pytest.mark.parametrize("kind", ["sd-e", "sd-v", "xl-e", "xl-v"])


def make_trainer(
    model: StableDiffusion, folder: Path, cache: LatentCache | None = None, **options: Any
) -> DiffusionTrainer:
    """Returns a trainer; the randomness of a pair follows from its number and the seed alone."""
    reset_accelerate()
    pairs, _ = load_captioned_pairs(str(folder))
    dataset = TextToImagePairs(
        pairs, model, PairTransform(16, random_flip=True), empty_prompts=0.5, cache=cache
    )
    options = {
        "output_dir": str(folder / "run"), "train_batch_size": 4, "gradient_accumulation_steps": 1,
        "use_cpu": True, **options,
    }  # fmt: skip
    config = StableDiffusionConfig(**options)
    return DiffusionTrainer(model.unet, model.process, dataset, config, encode=dataset.encode)
