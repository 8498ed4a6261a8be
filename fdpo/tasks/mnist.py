"""Images and preference pairs of handwritten digits: MNIST and scikit-learn's digits."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate, pad

from fdpo.diffusion.dataset import ImagePairs
from fdpo.diffusion.images import Shape, to_signed
from fdpo.tasks import PRETRAINED

MODEL, CLASSIFIER = PRETRAINED / "mnist-ddpm", PRETRAINED / "mnist-classifier"
"""The folders of the embedded model and of the classifier of digits."""
DIGITS = 10
SHAPE = (1, 28, 28)
"""The (channels, height, width) of MNIST's images."""
FILES = ("images-idx3-ubyte", "labels-idx1-ubyte")


def load_mnist(root: str | Path, train: bool = True) -> tuple[Tensor, Tensor]:
    """Loads MNIST, and downloads it if the folder does not hold it.

    Arguments:
        root: A folder with the original IDX files, plain or gzip, under their own names or
            Kaggle's (``train-images.idx3-ubyte``), or torchvision's root folder, which has
            ``MNIST/raw``.
        train: True for the 60,000 training images, false for the 10,000 test images.

    Returns:
        The images, with shape (N, 1, 28, 28), and their digits, with shape (N).

    Raises:
        ValueError: If MNIST is missing and cannot be downloaded, or the files are not MNIST.
    """
    prefix = "train" if train else "t10k"
    names = [f"{prefix}-{name}" for name in FILES]
    paths = [_find(Path(root), name) for name in names]
    if None in paths:
        _download(root)
        paths = [_find(Path(root), name) for name in names]
    images, labels = (_read_idx(path) for path in paths if path is not None)
    if images.shape[1:] != (28, 28) or labels.shape != images.shape[:1]:
        raise ValueError(
            f"--data_root {root}: not MNIST: images {images.shape}, labels {labels.shape}"
        )
    return to_signed(torch.from_numpy(images)[:, None] / 255), torch.from_numpy(labels).long()


def load_small_digits(shape: Shape) -> tuple[Tensor, Tensor]:
    """Loads scikit-learn's 1,797 digits of 8 x 8 pixels, enlarged to MNIST's size and margins.

    Arguments:
        shape: The shape of an image.

    Returns:
        The images, with shape (N, 1, H, W), and their digits, with shape (N).
    """
    from sklearn.datasets import load_digits

    digits, labels = load_digits(return_X_y=True)
    small = torch.from_numpy(digits).float().view(-1, 1, 8, 8) / 16
    _, height, width = shape
    inner = round(height * 20 / 28), round(width * 20 / 28)
    enlarged = interpolate(small, size=inner, mode="bilinear", align_corners=False)
    top, left = (height - inner[0]) // 2, (width - inner[1]) // 2
    framed = pad(enlarged, (left, width - inner[1] - left, top, height - inner[0] - top))
    return to_signed(framed.clamp(0, 1)), torch.from_numpy(labels).long()


def target_pairs(
    images: Tensor, labels: Tensor, target: int, n: int, generator: torch.Generator
) -> ImagePairs:
    """Returns n pairs of a random image of the target digit and a random image of another digit.

    Arguments:
        images: The images, with shape (N, C, H, W).
        labels: Their digits, with shape (N).
        target: The digit of the chosen images.
        n: The number of pairs.
        generator: The source of randomness.

    Raises:
        ValueError: If no image, or every image, shows the target.
    """
    winners, losers = (labels == target).nonzero()[:, 0], (labels != target).nonzero()[:, 0]
    if not (len(winners) and len(losers)):
        raise ValueError(f"target {target}: {len(winners)} of {len(labels)} images show it")
    chosen = winners[torch.randint(len(winners), (n,), generator=generator)]
    rejected = losers[torch.randint(len(losers), (n,), generator=generator)]
    return ImagePairs(images, list(zip(chosen.tolist(), rejected.tolist(), strict=True)))


def _find(root: Path, name: str) -> Path | None:
    """Returns the file of a name; Kaggle has a dot before idx, or a folder around the file."""
    names = (name, name.replace("-idx", ".idx"), f"{name}/{name}")
    places = (
        folder / f"{one}{end}"
        for folder in (root, root / "MNIST/raw")
        for one in names
        for end in ("", ".gz")
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


def _read_idx(path: Path) -> np.ndarray:
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
