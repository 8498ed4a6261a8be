"""Images in, images out: PNG files and folders of pairs.

An image is a tensor with shape (C, H, W) and values in :math:`[-1, 1]`, everywhere.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from fdpo.diffusion.dataset import ImagePairs
from fdpo.preferences.schema import read_pairs
from fdpo.runs.files import replacing

Shape = tuple[int, int, int]


def _scaled(pictures: Tensor) -> Tensor:
    return 2 * pictures - 1


def read_image(path: str | Path, shape: Shape) -> Tensor:
    """Reads a picture, grey or coloured as ``shape`` says.

    Raises:
        ValueError: If the file is missing, is no picture, or has another size.
    """
    channels, height, width = shape
    try:
        with Image.open(path) as image:
            converted = image.convert("L" if channels == 1 else "RGB")
            converted.load()
    except FileNotFoundError as error:
        raise ValueError(f"{path}: no such file") from error
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise ValueError(f"{path}: cannot be read as a picture ({error})") from error
    if converted.size != (width, height):
        found = "{} x {}".format(*converted.size)
        raise ValueError(f"{path}: has {found} pixels, the model {width} x {height}")
    values = torch.from_numpy(np.array(converted)).view(height, width, channels)
    return _scaled(values.permute(2, 0, 1) / 255)


def to_image(picture: Tensor) -> Image.Image:
    """Returns a picture as Pillow has it."""
    values = ((picture.clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).cpu().numpy()
    return Image.fromarray(values[:, :, 0] if values.shape[2] == 1 else values)


def write_image(path: str | Path, picture: Tensor) -> None:
    """Writes a picture, whole or not at all; the ending gives the format."""
    with replacing(path) as beside:
        to_image(picture).save(beside)


def read_pair_folder(folder: str | Path, shape: Shape, split: str = "train") -> ImagePairs:
    """Reads a folder of pairs of pictures.

    It holds ``train.jsonl`` with rows ``{"chosen": path, "rejected": path}``, relative to it, as
    ``dataset/main.py --modality image`` makes it; or the folders ``chosen`` and ``rejected``, with
    pictures that meet by name.

    Raises:
        ValueError: If there are none, a picture is unreadable, or one has no partner.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder")
    file = folder / f"{split}.jsonl"
    named = _named_pairs(file) if file.exists() else _folder_pairs(folder)
    paths = sorted({path for pair in named for path in pair})
    numbers = {path: number for number, path in enumerate(paths)}
    pictures = torch.stack([read_image(folder / path, shape) for path in paths])
    return ImagePairs(pictures, [(numbers[a], numbers[b]) for a, b in named])


def _named_pairs(file: Path) -> list[tuple[str, str]]:
    pairs = [(pair.chosen, pair.rejected) for pair in read_pairs(file)]
    for row, sides in enumerate(pairs, 1):
        if not all(isinstance(side, str) for side in sides):
            raise ValueError(f"{file}, row {row}: chosen and rejected must be paths of pictures")
    return pairs  # type: ignore[return-value]


def _folder_pairs(folder: Path) -> list[tuple[str, str]]:
    sides = [
        {path.name for path in (folder / side).glob("[!.]*")} for side in ("chosen", "rejected")
    ]
    if not any(sides):
        raise ValueError(f"{folder}: neither train.jsonl nor pictures in chosen/ and rejected/")
    if alone := sorted(sides[0] ^ sides[1]):
        side = "chosen" if alone[0] in sides[0] else "rejected"
        raise ValueError(
            f"{folder}: {len(sides[0])} pictures in chosen/, {len(sides[1])} in rejected/; "
            f"{side}/{alone[0]} has no partner of its name"
        )
    return [(f"chosen/{name}", f"rejected/{name}") for name in sorted(sides[0])]


def tiled(pictures: Tensor, columns: int) -> Tensor:
    """Lays pictures with shape (N, C, H, W) out in rows, with a thin frame."""
    from torchvision.utils import make_grid

    return make_grid(pictures, columns, padding=2, pad_value=0.0)[: pictures.shape[1]]
