"""Image files and folders of image pairs.

An image is a tensor with shape (C, H, W) and values in :math:`[-1, 1]`.
"""

from __future__ import annotations

import os
from functools import cache
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from fdpo.diffusion.dataset import ImagePairs
from fdpo.preferences.schema import get_path, read_pairs
from fdpo.runs.files import is_readable, replacing
from fdpo.runs.outside import note_outside

MAX_PIXELS = 40_000_000
"""The most pixels of an image by default. Decoding takes 4 to 8 bytes for each."""
ROWS = 256  # rows of an image that are laid on white at a time
LIMIT = "FDPO_MAX_PIXELS"
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")
"""The formats that are read. Pillow would hand others to programs, such as EPS to Ghostscript."""

Shape = tuple[int, int, int]
"""The (channels, height, width) of an image."""


def to_signed(values: Tensor) -> Tensor:
    """Returns values in [0, 1] scaled to :math:`[-1, 1]`."""
    return 2 * values - 1


def max_pixels() -> int:
    """Returns the most pixels of an image: ``FDPO_MAX_PIXELS``, by default :data:`MAX_PIXELS`."""
    text = os.environ.get(LIMIT, str(MAX_PIXELS))
    if not (text.isdecimal() and len(text) <= 18 and int(text)):
        raise ValueError(f"{LIMIT} must be a number of pixels, got {text!r:.40}")
    return int(text)


@cache
def _readable() -> list[str]:
    """Returns the formats of :data:`FORMATS` that this Pillow reads."""
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def decode_image(data: bytes, where: str) -> Image.Image:
    """Decodes an image file to upright RGB, as an image viewer shows it.

    EXIF orientation is applied, transparency is laid on white, and grey (8, 16 or 32 bits, or
    floating point) becomes RGB. Of an animation it is the first image. The number of pixels is
    checked before any is decoded, and only the formats of :data:`FORMATS` are read.

    Arguments:
        data: The bytes of the file.
        where: The name of the image in errors.

    Raises:
        ValueError: If the file is not an image, is truncated or has too many pixels.
    """
    limit = max_pixels()
    if Image.MAX_IMAGE_PIXELS is not None and Image.MAX_IMAGE_PIXELS < limit:
        Image.MAX_IMAGE_PIXELS = limit  # Pillow's own limit, which is raised with ours only
    try:
        with Image.open(BytesIO(data), formats=_readable()) as image:
            if (pixels := image.width * image.height) > limit:
                raise Image.DecompressionBombError(f"{pixels:,} pixels")
            image.load()
            scale = 65535 if image.format in ("PNG", "PPM") else None
            ImageOps.exif_transpose(image, in_place=True)
            return _rgb(image, scale)
    except UnidentifiedImageError as error:
        reason = f"not an image ({len(data):,} bytes)"
        raise ValueError(f"{where}: {reason}, or none of {', '.join(FORMATS)}") from error
    except Image.DecompressionBombError as error:
        raise ValueError(
            f"{where}: {error}: more than {limit:,} pixels, which a small file may claim to have; "
            f"the environment variable {LIMIT} raises this limit"
        ) from error
    except Exception as error:  # Pillow's readers fail as a broken file leads them to
        raise ValueError(f"{where}: cannot be read as an image ({error})") from error


def _rgb(image: Image.Image, scale: int | None) -> Image.Image:
    """Converts an upright image; ``scale`` is white in mode I, where the format sets it."""
    if image.mode.startswith("I;16"):
        image = _grey(np.asarray(image), 65535)
    elif image.mode in ("I", "F"):
        values = np.asarray(image)
        image = _grey(values, scale or _white(values, image.mode))
    if image.has_transparency_data:
        return _on_white(image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _on_white(image: Image.Image) -> Image.Image:
    """Lays an image on white, some rows at a time: all at once would take 16 bytes a pixel."""
    laid = Image.new("RGB", image.size)
    for top in range(0, image.height, ROWS):
        part = image.crop((0, top, image.width, min(top + ROWS, image.height))).convert("RGBA")
        white = Image.new("RGBA", part.size, "white")
        laid.paste(Image.alpha_composite(white, part).convert("RGB"), (0, top))
    return laid


def _grey(values: np.ndarray, white: float) -> Image.Image:
    grey = np.empty(values.shape, np.uint8)
    for row, given in zip(grey, values, strict=True):  # all at once would take 16 bytes a pixel
        row[:] = np.rint(given / (white / 255))
    return Image.fromarray(grey)


def _white(values: np.ndarray, mode: str) -> int:
    """Returns the value that is white: the least that all lie below, of 1 (F only), 8, 16 bits."""
    low, high = values.min(), values.max()
    for white in (1, 255, 65535) if mode == "F" else (255, 65535, 2**31 - 1):
        if 0 <= low and high <= white:
            return white
    raise ValueError(f"its values lie in [{low:g}, {high:g}], not in [0, {white:g}]")


def read_image(path: str | Path, shape: Shape) -> Tensor:
    """Reads an image file, as grey values or RGB according to ``shape`` (:func:`decode_image`).

    Arguments:
        path: The file.
        shape: The shape of the image.

    Returns:
        The image, with shape ``shape``.

    Raises:
        ValueError: If the file is missing, is no image, or has another size.
    """
    channels, height, width = shape
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError as error:
        raise ValueError(f"{path}: no such file") from error
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: cannot be read as an image ({error})") from error
    image = decode_image(data, str(path))
    if image.size != (width, height):
        size = "{} x {}".format(*image.size)
        raise ValueError(f"{path}: has {size} pixels, the model {width} x {height}")
    pixels = np.array(image.convert("L") if channels == 1 else image)
    return to_signed(torch.from_numpy(pixels).view(height, width, channels).permute(2, 0, 1) / 255)


def to_image(image: Tensor) -> Image.Image:
    """Returns an image as a Pillow image."""
    values = ((image.clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).cpu().numpy()
    return Image.fromarray(values[:, :, 0] if values.shape[2] == 1 else values)


def is_image(path: Path) -> bool:
    """Returns whether an image file exists and is whole; says so if it is damaged."""
    return is_readable(path, lambda path: decode_image(path.read_bytes(), path.name))


def write_image(path: str | Path, image: Tensor | Image.Image) -> None:
    """Writes an image file, whole or not at all; the suffix of the path sets the format."""
    with replacing(path) as beside:
        (to_image(image) if isinstance(image, Tensor) else image).save(beside)


def read_pair_folder(folder: str | Path, shape: Shape, split: str = "train") -> ImagePairs:
    """Reads a folder of image pairs.

    The folder holds ``train.jsonl`` with rows ``{"chosen": path, "rejected": path}``, relative to
    the folder, as ``dataset/main.py --modality image`` writes it; or the folders ``chosen`` and
    ``rejected``, whose images are paired by name.

    Arguments:
        folder: The folder.
        shape: The shape of the images.
        split: The name of the JSONL file.

    Raises:
        ValueError: If the folder has no pairs, or an image is unreadable or has no partner.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder")
    file = folder / f"{split}.jsonl"
    path_pairs = _pairs_from_rows(file) if file.exists() else _pairs_by_name(folder)
    paths = sorted({path for pair in path_pairs for path in pair})
    note_outside(paths, folder)
    index = {path: number for number, path in enumerate(paths)}
    images = torch.stack([read_image(folder / path, shape) for path in paths])
    return ImagePairs(images, [(index[chosen], index[rejected]) for chosen, rejected in path_pairs])


def _pairs_from_rows(file: Path) -> list[tuple[str, str]]:
    return [
        (
            get_path(pair.chosen, f"{file}, row {n}: chosen"),
            get_path(pair.rejected, f"{file}, row {n}: rejected"),
        )
        for n, pair in enumerate(read_pairs(file), 1)
    ]


def _pairs_by_name(folder: Path) -> list[tuple[str, str]]:
    chosen, rejected = (
        {path.name for path in (folder / side).glob("[!.]*")} for side in ("chosen", "rejected")
    )
    if not chosen and not rejected:
        raise ValueError(f"{folder}: neither train.jsonl nor images in chosen/ and rejected/")
    if alone := sorted(chosen ^ rejected):
        side = "chosen" if alone[0] in chosen else "rejected"
        raise ValueError(
            f"{folder}: {len(chosen)} images in chosen/, {len(rejected)} in rejected/; "
            f"{side}/{alone[0]} has no partner of its name"
        )
    return [(f"chosen/{name}", f"rejected/{name}") for name in sorted(chosen)]


def tiled(images: Tensor, columns: int) -> Tensor:
    """Returns a grid of images with shape (N, C, H, W), with a thin frame around each."""
    from torchvision.utils import make_grid

    return make_grid(images, columns, padding=2, pad_value=0.0)[: images.shape[1]]
