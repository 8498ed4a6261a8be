"""From picture files to square tensors: decoding, flips, crops, and the sizes that SDXL is told."""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor


def decode(data: bytes, where: str) -> Image.Image:
    """Decodes a picture to RGB, upright.

    The orientation that EXIF tells is applied, transparency is laid on white, grey (of 16 bits,
    too) becomes coloured.

    Arguments:
        data: The file's bytes.
        where: What errors call the picture.

    Raises:
        ValueError: If it is no picture or truncated.
    """
    try:
        with Image.open(BytesIO(data)) as image:
            image.load()
            return _rgb(ImageOps.exif_transpose(image))
    except UnidentifiedImageError as error:
        raise ValueError(f"{where}: is no picture ({len(data):,} bytes)") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{where}: cannot be read as a picture ({error})") from error


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) / 257).round().astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        ground = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(ground, image)
    return image.convert("RGB")


@dataclass(frozen=True)
class Cut:
    """What is drawn for a pair: whether it is flipped, and the place of its crop.

    Attributes:
        flip: Whether left and right are exchanged.
        top: The place of the crop's corner, as a share of the room that there is, in [0, 1].
        left: The same from the left.
    """

    flip: bool = False
    top: float = 0.5
    left: float = 0.5


@dataclass(frozen=True)
class PairTransform:
    """How pictures are brought to the size of the model.

    The shorter side is scaled to the resolution (bilinear), the longer one cropped.

    Arguments:
        resolution: Height and width, pixels.
        random_flip: Whether half of the pairs are flipped, both pictures.
        random_crop: Whether the crop's place is drawn; otherwise it is the centre.
    """

    resolution: int
    random_flip: bool = False
    random_crop: bool = False

    def draw(self, generator: torch.Generator) -> Cut:
        """Draws flip and crop of a pair; the generator moves on by the same in any case."""
        flip, top, left = torch.rand(3, generator=generator).tolist()
        if not self.random_crop:
            top, left = Cut.top, Cut.left
        return Cut(self.random_flip and flip < 0.5, top, left)

    def apply(self, image: Image.Image, cut: Cut) -> tuple[Tensor, Tensor]:
        """Returns a picture with values in :math:`[-1, 1]`, with shape (3, H, W), and its sizes.

        The sizes are SDXL's ``time_ids``, with shape (6): height and width of the original, top and
        left of the crop in the scaled picture, height and width of the crop.
        """
        size = self.resolution
        scale = size / min(image.size)
        width, height = (max(size, round(scale * length)) for length in image.size)
        scaled = image.resize((width, height), Image.Resampling.BILINEAR)
        if cut.flip:
            scaled = ImageOps.mirror(scaled)
        top, left = round(cut.top * (height - size)), round(cut.left * (width - size))
        cropped = scaled.crop((left, top, left + size, top + size))
        pixels = torch.from_numpy(np.array(cropped)).permute(2, 0, 1) / 127.5 - 1
        sizes = [image.height, image.width, top, left, size, size]
        return pixels, torch.tensor(sizes, dtype=torch.float32)
