"""Images as square tensors: flips, crops, and the sizes that SDXL takes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from fdpo.diffusion.images import decode_image as decode_image  # its place in version 0.1


@dataclass(frozen=True)
class Crop:
    """A flip and a crop, the same for both images of a pair.

    Attributes:
        flip: True if left and right are exchanged.
        top: The top of the crop, as a share of the rows to choose from, in [0, 1].
        left: The left edge of the crop, as a share of the columns to choose from.
    """

    flip: bool = False
    top: float = 0.5
    left: float = 0.5


@dataclass(frozen=True)
class PairTransform:
    """A transform that scales and crops images to the model's size, with random flips and crops.

    The shorter side is scaled to the resolution (bilinear), the longer one is cropped.

    Arguments:
        resolution: Height and width in pixels.
        random_flip: True to flip half of the pairs, both images.
        random_crop: True for a random position of the crop; otherwise it is the centre.
    """

    resolution: int
    random_flip: bool = False
    random_crop: bool = False

    def sample(self, generator: torch.Generator) -> Crop:
        """Samples the flip and crop of a pair; every option uses the generator equally often."""
        flip, top, left = torch.rand(3, generator=generator).tolist()
        if not self.random_crop:
            top, left = Crop.top, Crop.left
        return Crop(self.random_flip and flip < 0.5, top, left)

    def apply(self, image: Image.Image, crop: Crop) -> tuple[Tensor, Tensor]:
        """Transforms an image.

        Returns:
            The image with values in :math:`[-1, 1]`, with shape (3, H, W), and its sizes, SDXL's
            ``time_ids``, with shape (6): height and width of the original, top and left of the
            crop in the scaled image, height and width of the crop.
        """
        size = self.resolution
        scale = size / min(image.size)
        width, height = (max(size, round(scale * length)) for length in image.size)
        scaled = image.resize((width, height), Image.Resampling.BILINEAR)
        if crop.flip:
            scaled = ImageOps.mirror(scaled)
        top, left = round(crop.top * (height - size)), round(crop.left * (width - size))
        cropped = scaled.crop((left, top, left + size, top + size))
        pixels = torch.from_numpy(np.array(cropped)).permute(2, 0, 1) / 127.5 - 1
        sizes = [image.height, image.width, top, left, size, size]
        return pixels, torch.tensor(sizes, dtype=torch.float32)
