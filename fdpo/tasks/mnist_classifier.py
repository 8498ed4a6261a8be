"""A classifier of handwritten digits with a class for images that are no digits.

The classifier has eleven classes: the ten digits and "none". For the eleventh it is trained on the
images of :mod:`fdpo.tasks.mnist_foreign`: noise, blank and blended images, shuffled pixels, halves
of two digits … An image is *in distribution* unless "none" is its likeliest class.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, pad
from tqdm.auto import tqdm

from fdpo.diffusion.models import require_weights
from fdpo.tasks.mnist import DIGITS, SHAPE
from fdpo.tasks.mnist_foreign import FOREIGN

NONE = DIGITS
"""The class of images that are no digits."""
REAL = "real_features.safetensors"


class DigitClassifier(ModelMixin, ConfigMixin):
    """A small convolutional network for 28 x 28 images in :math:`[-1, 1]`.

    Arguments:
        width: Channels of the first layer.
        features: Size of the layer before the last.
    """

    @register_to_config
    def __init__(self, width: int = 32, features: int = 64) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *_block(1, width), *_block(width, width), nn.MaxPool2d(2),
            *_block(width, 2 * width), *_block(2 * width, 2 * width), nn.MaxPool2d(2),
            nn.Flatten(), nn.Dropout(0.3), nn.Linear(2 * width * 49, features),
        )  # fmt: skip
        self.head = nn.Sequential(nn.ReLU(), nn.Dropout(0.3), nn.Linear(features, DIGITS + 1))

    def forward(self, images: Tensor) -> Tensor:
        """Returns logits with shape (N, 11), "none" last."""
        return self.head(self.body(images))


def _block(channels: int, width: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()


@dataclass(frozen=True)
class Judgement:
    """The classifier's output on N images.

    Attributes:
        logits: With shape (N, 11).
        features: The activations before the last layer, with shape (N, F).
        in_distribution: True where "none" is not the likeliest class, with shape (N).
    """

    logits: Tensor
    features: Tensor
    in_distribution: Tensor

    @property
    def digits(self) -> Tensor:
        """The likeliest digit of each image, with shape (N)."""
        return self.logits[:, :DIGITS].argmax(1)

    def shows(self, digit: int) -> Tensor:
        """Returns a mask of the images that are in distribution and show a digit, shape (N)."""
        return self.in_distribution & (self.digits == digit)

    def scores(self, digit: int) -> Tensor:
        """Returns the log-odds of a digit against all other classes, with shape (N)."""
        log_p = self.logits.double().log_softmax(1)
        others = [i for i in range(DIGITS + 1) if i != digit]
        return log_p[:, digit] - log_p[:, others].logsumexp(1)


@torch.no_grad()
def judge(classifier: DigitClassifier, images: Tensor, batch_size: int = 512) -> Judgement:
    """Classifies images with shape (N, 1, 28, 28)."""
    device = next(classifier.parameters()).device
    classifier.eval()
    features, logits = [], []
    for batch in images.split(batch_size):
        features.append(classifier.body(batch.to(device)).float().cpu())
        logits.append(classifier.head(features[-1].to(device)).float().cpu())
    all_logits = torch.cat(logits)
    return Judgement(all_logits, torch.cat(features), all_logits.argmax(1) != NONE)


def load_classifier(name: str | Path, device: torch.device | str = "cpu") -> DigitClassifier:
    """Loads a classifier that ``diffusion/pretrain.py`` saved, in fp32.

    Raises:
        ValueError: If the folder is missing, or holds no ``config.json`` or no weights.
    """
    if not (Path(name) / "config.json").exists():
        raise ValueError(f"classifier {name}: no such folder, or no config.json in it")
    require_weights(name)
    classifier = DigitClassifier.from_pretrained(name, use_safetensors=True)
    return classifier.float().to(device).eval()


def require_size(shape: tuple[int, int, int], name: str | Path) -> None:
    """Raises ``ValueError`` if a model's images do not have the size that a classifier takes."""
    if shape != SHAPE:
        size, needed = (" x ".join(map(str, sizes)) for sizes in (shape, SHAPE))
        raise ValueError(f"classifier {name} judges {needed} images, the model makes {size}")


def save_real_features(folder: str | Path, judgement: Judgement, labels: Tensor) -> None:
    """Saves the features of real test images beside the classifier, for the variety metric."""
    tensors = {"features": judgement.features.half(), "labels": labels.to(torch.uint8)}
    save_file(tensors, Path(folder) / REAL)


def load_real_features(folder: str | Path, digit: int) -> Tensor:
    """Loads the features of the real test images of a digit, with shape (M, F).

    Raises:
        ValueError: If the classifier's folder holds none.
    """
    if not (Path(folder) / REAL).exists():
        raise ValueError(f"classifier {folder}: no {REAL} in this folder")
    tensors = load_file(Path(folder) / REAL)
    return tensors["features"][tensors["labels"] == digit].float()


def measure_classifier(
    classifier: DigitClassifier, images: Tensor, labels: Tensor, seed: int = 1
) -> dict[str, float]:
    """Measures a classifier on real images and on every kind of image that is no digit.

    Arguments:
        classifier: The classifier.
        images: Real test images, with shape (N, 1, 28, 28).
        labels: Their digits, with shape (N).
        seed: The seed of the images that are no digits.

    Returns:
        ``accuracy``, the share of real images whose digit is right; ``passed``, the share of real
        images in distribution; and ``flagged_KIND``, the share of each kind of image that is no
        digit which the classifier holds out of distribution.
    """
    generator, real = torch.Generator().manual_seed(seed), judge(classifier, images)
    masks = {"accuracy": real.digits == labels, "passed": real.in_distribution}
    for kind, make_foreign in FOREIGN.items():
        judgement = judge(classifier, make_foreign(images, generator))
        masks[f"flagged_{kind}"] = ~judgement.in_distribution
    return {name: mask.double().mean().item() for name, mask in masks.items()}


def train_classifier(
    images: Tensor,
    labels: Tensor,
    *,
    steps: int = 3000,
    batch_size: int = 128,
    learning_rate: float = 2e-3,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> DigitClassifier:
    """Trains a classifier on digits and, a third as many, images that are no digits.

    Arguments:
        images: Real digits, with shape (N, 1, 28, 28).
        labels: Their digits, with shape (N).
        steps: Updates.
        batch_size: Real digits per update.
        learning_rate: The peak of a one-cycle schedule.
        seed: The seed of weights, order and images that are no digits.
        device: The device.
    """
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    classifier = DigitClassifier().to(device)
    optimizer = torch.optim.AdamW(classifier.parameters(), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, steps)
    for _ in tqdm(range(steps), "training", unit=" updates"):
        sample = torch.randint(len(images), (batch_size,), generator=generator)
        digits = _shifted(images[sample], generator)
        foreign = _foreign(images, batch_size // 3, generator)
        inputs = torch.cat([digits, foreign])
        targets = torch.cat([labels[sample], torch.full((len(foreign),), NONE)])
        classifier.train()
        loss = cross_entropy(classifier(inputs.to(device)), targets.to(device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return classifier.eval()


def _shifted(images: Tensor, generator: torch.Generator, by: int = 2) -> Tensor:
    """Shifts a batch by up to two pixels and fills the border with black."""
    x, y = torch.randint(2 * by + 1, (2,), generator=generator).tolist()
    framed = pad(images, (by,) * 4, value=-1.0)
    return framed[:, :, y : y + images.shape[2], x : x + images.shape[3]]


def _foreign(images: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """Returns about n images that are no digits, of every kind."""
    size = max(2, -(-n // len(FOREIGN)))
    batches = []
    for make_foreign in FOREIGN.values():
        sample = torch.randint(len(images), (size,), generator=generator)
        batches.append(make_foreign(images[sample], generator))
    return torch.cat(batches)
