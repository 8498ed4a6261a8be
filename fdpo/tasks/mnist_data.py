"""MNIST and scikit-learn's digits as images, and pairs of a target digit."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate, pad

from fdpo.diffusion.dataset import ImagePairs
from fdpo.diffusion.images import Shape, _scaled

FILES = ("images-idx3-ubyte", "labels-idx1-ubyte")


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
) -> ImagePairs:
    """Pairs n random pictures of the target digit with as many random ones of other digits."""
    winners, losers = (labels == target).nonzero()[:, 0], (labels != target).nonzero()[:, 0]
    if not (len(winners) and len(losers)):
        raise ValueError(f"target {target}: {len(winners)} of {len(labels)} pictures show it")
    chosen = winners[torch.randint(len(winners), (n,), generator=generator)]
    rejected = losers[torch.randint(len(losers), (n,), generator=generator)]
    return ImagePairs(pictures, list(zip(chosen.tolist(), rejected.tolist(), strict=True)))


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
