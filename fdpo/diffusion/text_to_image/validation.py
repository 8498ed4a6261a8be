"""Validation images during training: base and policy from the same noise, with win rates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import nn

from fdpo.diffusion.images import write_image
from fdpo.diffusion.text_to_image.pipeline import StableDiffusion
from fdpo.diffusion.text_to_image.sheets import write_sheet
from fdpo.diffusion.text_to_image.win_rates import win_rates
from fdpo.diffusion.trainer import DiffusionTrainer
from fdpo.runs.seeds import derived_seed
from fdpo.scorers import Scorer

FOLDER = "validation"


@dataclass
class Validation:
    """Images of fixed prompts from fixed noise, to be compared with the untrained model's.

    Arguments:
        model: The pipeline that generates.
        prompts: The prompts.
        folder: The run folder; sheets and images go to its subfolder ``validation``.
        seed: The seed of the noise; an image's noise follows from it and the prompt's position.
        scorers: The scorers that compare the images, by name.
        options: Options of :meth:`StableDiffusion.generate`.
    """

    model: StableDiffusion
    prompts: Sequence[str]
    folder: Path
    seed: int
    scorers: Mapping[str, Scorer]
    options: Mapping[str, Any]

    def generate_base(self) -> None:
        """Generates the untrained model's images; to be called before training."""
        self.base = self._generate(self.model.unet, "base")

    def compare(self, policy: nn.Module, trainer: DiffusionTrainer) -> dict[str, float]:
        """Generates the policy's images, writes ``step-N.png`` and sends it to the trackers.

        Returns:
            ``change``, the mean absolute difference from the base's images as a share of the range;
            the scorers' win rates; and the quantiles of recent log-ratios.
        """
        name = f"step-{trainer.step}"
        images = self._generate(policy, name)
        sheet = self.folder / FOLDER / f"{name}.png"
        write_sheet(sheet, self.prompts, self.base, images, ("base", f"step {trainer.step}"))
        _track(trainer, images)
        metrics, _ = win_rates(self.scorers, self.prompts, self._files(name), self._files("base"))
        return {"change": mean_change(self.base, images), **metrics, **trainer.quantiles()}

    def _generate(self, unet: nn.Module, name: str) -> list[Image.Image]:
        seeds = [derived_seed(self.seed, i) for i in range(len(self.prompts))]
        images = self.model.generate(
            unet, self.prompts, seeds, progress=f"generating {name}", **self.options
        )
        for path, image in zip(self._files(name), images, strict=True):
            write_image(path, image)
        return images

    def _files(self, name: str) -> list[str]:
        folder = self.folder / FOLDER / name
        return [str(folder / f"{i:03}.png") for i in range(len(self.prompts))]


def mean_change(before: Sequence[Image.Image], after: Sequence[Image.Image]) -> float:
    """Returns the mean absolute difference of paired images, as a share of the range."""
    differences = [
        np.abs(np.asarray(a, dtype=np.float64) - np.asarray(b)).mean() / 255
        for a, b in zip(before, after, strict=True)
    ]
    return float(np.mean(differences))


def _track(trainer: DiffusionTrainer, images: Sequence[Image.Image]) -> None:
    """Sends images to the trackers that take any."""
    for tracker in trainer.accelerator.trackers:
        if hasattr(tracker, "log_images"):
            layout = {"dataformats": "NHWC"} if tracker.name == "tensorboard" else {}
            stacked = np.stack([np.asarray(image) for image in images])
            tracker.log_images({"validation": stacked}, step=trainer.step, **layout)
