"""Pictures in, pictures out: MNIST, scikit-learn's digits, folders of pairs, PNG files.

A picture is a tensor with shape (C, H, W) and values in :math:`[-1, 1]`, everywhere.
"""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.nn.functional import interpolate, pad

from fdpo.diffusion.pairs import PicturePairs
from fdpo.preferences import read_pairs
from fdpo.runs import replacing

Shape = tuple[int, int, int]
FILES = ("images-idx3-ubyte", "labels-idx1-ubyte")


# --- MNIST and its small sister ---


def load_mnist(root: str | Path, train: bool = True) -> tuple[Tensor, Tensor]:
    """Loads MNIST's pictures, with shape (N, 1, 28, 28), and their digits, with shape (N).

    Arguments:
        root: A folder with the original IDX files, plain or gzip, or one in which torchvision keeps
            them (``root/MNIST/raw``), or will: where there are none, they are downloaded.
        train: The 60,000 pictures to train on, or the 10,000 to test with.

    Raises:
        ValueError: If they are not there and cannot be downloaded, or are not MNIST.
    """
    prefix = "train" if train else "t10k"
    names = [f"{prefix}-{name}" for name in FILES]
    found = [_find(Path(root), name) for name in names]
    if None in found:
        _download(root)
        found = [_find(Path(root), name) for name in names]
    images, labels = (_idx(path) for path in found if path is not None)
    if images.shape[1:] != (28, 28) or labels.shape != images.shape[:1]:
        raise ValueError(
            f"--data_root {root}: not MNIST: pictures {images.shape}, labels {labels.shape}"
        )
    return _scaled(torch.from_numpy(images)[:, None] / 255), torch.from_numpy(labels).long()


def load_small_digits(shape: Shape) -> tuple[Tensor, Tensor]:
    """Loads scikit-learn's 1,797 digits of 8 x 8 pixels, drawn as large as MNIST's in its frame."""
    from sklearn.datasets import load_digits

    digits, labels = load_digits(return_X_y=True)
    pictures = torch.from_numpy(digits).float().view(-1, 1, 8, 8) / 16
    _, height, width = shape
    inside = round(height * 20 / 28), round(width * 20 / 28)
    drawn = interpolate(pictures, size=inside, mode="bilinear", align_corners=False)
    top, left = (height - inside[0]) // 2, (width - inside[1]) // 2
    framed = pad(drawn, (left, width - inside[1] - left, top, height - inside[0] - top))
    return _scaled(framed.clamp(0, 1)), torch.from_numpy(labels).long()


def target_pairs(
    pictures: Tensor, labels: Tensor, target: int, n: int, generator: torch.Generator
) -> PicturePairs:
    """Pairs n random pictures of the target digit with as many random ones of other digits."""
    winners, losers = (labels == target).nonzero()[:, 0], (labels != target).nonzero()[:, 0]
    if not (len(winners) and len(losers)):
        raise ValueError(f"target {target}: {len(winners)} of {len(labels)} pictures show it")
    chosen = winners[torch.randint(len(winners), (n,), generator=generator)]
    rejected = losers[torch.randint(len(losers), (n,), generator=generator)]
    return PicturePairs(pictures, list(zip(chosen.tolist(), rejected.tolist(), strict=True)))


def _find(root: Path, name: str) -> Path | None:
    places = (
        folder / f"{name}{end}" for folder in (root, root / "MNIST/raw") for end in ("", ".gz")
    )
    return next((place for place in places if place.is_file()), None)


def _download(root: str | Path) -> None:
    from torchvision.datasets import MNIST

    try:
        MNIST(str(root), download=True)
    except (OSError, RuntimeError) as error:
        raise ValueError(
            f"--data_root {root}: no MNIST there ({FILES[0]}.gz …), and it cannot be downloaded "
            f"({error}): put the four files there"
        ) from error


def _idx(path: Path) -> np.ndarray:
    """Reads an IDX file of bytes: 0, 0, 8, dimensions, their sizes, the values."""
    try:
        data = gzip.open(path).read() if path.suffix == ".gz" else path.read_bytes()
    except (EOFError, gzip.BadGzipFile) as error:
        raise ValueError(f"{path}: not a gzip file ({error})") from error
    dims = data[3] if len(data) > 3 and data[:3] == b"\0\0\x08" else 0
    shape = np.frombuffer(data[4 : 4 + 4 * dims].ljust(4 * dims, b"\0"), ">u4")
    if not dims or len(data) - 4 - 4 * dims != np.prod(shape):
        raise ValueError(f"{path}: not an IDX file of bytes, as MNIST's are")
    return np.frombuffer(data, np.uint8, offset=4 + 4 * dims).reshape(shape).copy()


def _scaled(pictures: Tensor) -> Tensor:
    return 2 * pictures - 1


# --- files ---


def read_picture(path: str | Path, shape: Shape) -> Tensor:
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


def write_picture(path: str | Path, picture: Tensor) -> None:
    """Writes a picture, whole or not at all; the ending gives the format."""
    with replacing(path) as beside:
        to_image(picture).save(beside)


def read_pair_folder(folder: str | Path, shape: Shape, split: str = "train") -> PicturePairs:
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
    pictures = torch.stack([read_picture(folder / path, shape) for path in paths])
    return PicturePairs(pictures, [(numbers[a], numbers[b]) for a, b in named])


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
