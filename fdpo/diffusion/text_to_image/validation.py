"""Pictures of the base and of the policy in training, drawn from the same noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import nn

from fdpo.diffusion.text_to_image.compare import draw_sheet, win_rates
from fdpo.diffusion.text_to_image.pipeline import StableDiffusion
from fdpo.diffusion.trainer import DiffusionTrainer
from fdpo.runs.files import replacing
from fdpo.runs.seeds import derived_seed
from fdpo.scorers import Scorer

FOLDER = "validation"


@dataclass
class Validation:
    """Draws prompts with fixed noise, as often as it is asked.

    Arguments:
        model: The pipeline to draw with.
        prompts: The prompts.
        folder: The run folder; sheets and pictures go to ``validation`` in it.
        seed: Of the noise: a prompt's place and this seed decide on its picture.
        scorers: By name, what compares the pictures.
        options: Those of :meth:`StableDiffusion.draw`.
    """

    model: StableDiffusion
    prompts: Sequence[str]
    folder: Path
    seed: int
    scorers: Mapping[str, Scorer]
    options: Mapping[str, Any]

    def draw_base(self) -> None:
        """Draws the untrained model, which is to be called before training."""
        self.base = self._draw(self.model.unet, "base")

    def draw(self, policy: nn.Module, trainer: DiffusionTrainer) -> dict[str, float]:
        """Draws the policy, writes ``step-N.png`` and sends it to the trackers.

        Returns:
            ``change``, the mean absolute difference to the base's pictures in shares of the range;
            the scorers' win rates; and the quantiles of recent log-ratios.
        """
        name = f"step-{trainer.step}"
        drawn = self._draw(policy, name)
        sheet = self.folder / FOLDER / f"{name}.png"
        draw_sheet(sheet, self.prompts, self.base, drawn, ("base", f"step {trainer.step}"))
        for tracker in trainer.accelerator.trackers:
            if hasattr(tracker, "log_images"):
                form = {"dataformats": "NHWC"} if tracker.name == "tensorboard" else {}
                shown = np.stack([np.asarray(picture) for picture in drawn])
                tracker.log_images({"validation": shown}, step=trainer.step, **form)
        gaps = [
            np.abs(np.asarray(a, dtype=np.float64) - np.asarray(b)).mean() / 255
            for a, b in zip(self.base, drawn, strict=True)
        ]
        figures, _ = win_rates(self.scorers, self.prompts, self._files(name), self._files("base"))
        return {"change": float(np.mean(gaps)), **figures, **trainer.quantiles()}

    def _draw(self, unet: nn.Module, name: str) -> list[Image.Image]:
        seeds = [derived_seed(self.seed, i) for i in range(len(self.prompts))]
        drawn = self.model.draw(
            unet, self.prompts, seeds, progress=f"drawing {name}", **self.options
        )
        for path, picture in zip(self._files(name), drawn, strict=True):
            with replacing(path) as beside:
                picture.save(beside)
        return drawn

    def _files(self, name: str) -> list[str]:
        places = (self.folder / FOLDER / name / f"{i:03}.png" for i in range(len(self.prompts)))
        return [str(place) for place in places]
