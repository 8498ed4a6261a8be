r"""What a picture of a digit shows, and whether it is one at all.

The classifier has eleven classes: ten digits and "none". For the eleventh it saw, in training, what
bad generators make of digits: noise, blank and blended pictures, shuffled pixels, and parts of two
digits side by side. A picture is *in distribution* unless "none" is its likeliest class.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate

DIGITS = 10
SHAPE = (1, 28, 28)
REAL = "real_features.safetensors"
NONE = DIGITS


class DigitClassifier(ModelMixin, ConfigMixin):
    """A small convolutional network for 28 x 28 pictures in :math:`[-1, 1]`.

    Arguments:
        width: Channels of its first layer.
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

    def forward(self, pictures: Tensor) -> Tensor:
        """Returns logits with shape (N, 11), "none" last."""
        return self.head(self.body(pictures))


def _block(channels: int, width: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()


@dataclass(frozen=True)
class Judged:
    """What the classifier says of N pictures.

    Attributes:
        logits: With shape (N, 11).
        features: The activations before the last layer, with shape (N, F).
        genuine: Whether a picture is in distribution, with shape (N).
    """

    logits: Tensor
    features: Tensor
    genuine: Tensor

    @property
    def digits(self) -> Tensor:
        """The likeliest digit of each picture, with shape (N)."""
        return self.logits[:, :DIGITS].argmax(1)

    def shows(self, digit: int) -> Tensor:
        """Whether each picture is in distribution and shows this digit, with shape (N)."""
        return self.genuine & (self.digits == digit)

    def scores(self, digit: int) -> Tensor:
        """The log-odds of this digit against everything else, "none" included, shape (N)."""
        log_p = self.logits.double().log_softmax(1)
        others = [i for i in range(DIGITS + 1) if i != digit]
        return log_p[:, digit] - log_p[:, others].logsumexp(1)


@torch.no_grad()
def judge(classifier: DigitClassifier, pictures: Tensor, batch_size: int = 512) -> Judged:
    """Classifies pictures with shape (N, 1, 28, 28)."""
    device = next(classifier.parameters()).device
    classifier.eval()
    features, logits = [], []
    for batch in pictures.split(batch_size):
        features.append(classifier.body(batch.to(device)).float().cpu())
        logits.append(classifier.head(features[-1].to(device)).float().cpu())
    all_logits = torch.cat(logits)
    return Judged(all_logits, torch.cat(features), all_logits.argmax(1) != NONE)


def load_classifier(name: str | Path, device: torch.device | str = "cpu") -> DigitClassifier:
    """Loads a classifier that ``diffusion/pretrain.py`` made, in fp32."""
    if not (Path(name) / "config.json").exists():
        raise ValueError(f"classifier {name}: no such folder, or no config.json in it")
    return DigitClassifier.from_pretrained(name).float().to(device).eval()


def require_size(shape: tuple[int, int, int], name: str | Path) -> None:
    """Raises ``ValueError`` if a model's pictures are not of the size that is judged here."""
    if shape != SHAPE:
        found, wanted = (" x ".join(map(str, size)) for size in (shape, SHAPE))
        raise ValueError(f"classifier {name} judges {wanted} pictures, the model makes {found}")


def save_real_features(folder: str | Path, judged: Judged, labels: Tensor) -> None:
    """Keeps the features of real test pictures with the classifier, to measure variety by."""
    tensors = {"features": judged.features.half(), "labels": labels.to(torch.uint8)}
    save_file(tensors, Path(folder) / REAL)


def load_real_features(folder: str | Path, digit: int) -> Tensor:
    """Loads the features of the real test pictures of a digit, with shape (M, F)."""
    if not (Path(folder) / REAL).exists():
        raise ValueError(f"classifier {folder}: no {REAL} in this folder")
    kept = load_file(Path(folder) / REAL)
    return kept["features"][kept["labels"] == digit].float()


# --- what is no digit ---


def noise(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Normal noise of any strength, smooth or not."""
    n = len(pictures)
    strength = 0.3 + 1.2 * _uniform(pictures, generator)
    fine = torch.randn(pictures.shape, generator=generator)
    coarse = interpolate(torch.randn(n, 1, 14, 14, generator=generator), size=28, mode="bilinear")
    centre = 2 * _uniform(pictures, generator) - 1
    smooth = _uniform(pictures, generator) < 0.3
    return (centre + strength * torch.where(smooth, coarse, fine)).clamp(-1, 1)


def blank(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """One grey, from black to white, with hardly any noise."""
    grey = 2 * _uniform(pictures, generator) - 1
    ends = torch.rand(grey.shape, generator=generator) < 0.5
    grey = torch.where(ends, grey.sign(), grey)
    return (grey + 0.05 * torch.randn(pictures.shape, generator=generator)).clamp(-1, 1)


def blended(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """The average of two pictures."""
    return (pictures + pictures[_other(pictures, generator)]) / 2


def shuffled(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """The pixels of a picture in random order."""
    order = torch.rand(len(pictures), pictures[0].numel(), generator=generator).argsort(1)
    return pictures.flatten(1).gather(1, order).view_as(pictures)


def halved(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """The left half of one picture, and the right half of another, or top and bottom."""
    other = pictures[_other(pictures, generator)]
    line = torch.arange(28) < 14
    sides = line.view(1, 1, 1, 28).expand(1, 1, 28, 28)
    turned = torch.rand(len(pictures), 1, 1, 1, generator=generator) < 0.5
    return torch.where(torch.where(turned, sides, sides.transpose(2, 3)), pictures, other)


def blurred(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """A digit out of focus."""
    return avg_pool2d(pictures, 7, 1, 3, count_include_pad=False)


def inverted(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Black on white."""
    return -pictures


FOREIGN = {
    "noise": noise,
    "blank": blank,
    "blended": blended,
    "shuffled": shuffled,
    "halved": halved,
    "blurred": blurred,
    "inverted": inverted,
}
"""What is no digit: name -> function of pictures with shape (N, 1, 28, 28) and a generator."""


def measured(
    classifier: DigitClassifier, pictures: Tensor, labels: Tensor, seed: int = 1
) -> dict[str, float]:
    """Returns how good a classifier is: shares of real pictures, and of foreign ones of each kind.

    ``accuracy`` is the share of pictures whose digit it names, ``passed`` of those it holds in
    distribution; ``flagged_KIND`` the share of foreign ones, made of them, that it does not.
    """
    generator, real = torch.Generator().manual_seed(seed), judge(classifier, pictures)
    shares = {"accuracy": real.digits == labels, "passed": real.genuine}
    for kind, foreign in FOREIGN.items():
        shares[f"flagged_{kind}"] = ~judge(classifier, foreign(pictures, generator)).genuine
    return {name: share.double().mean().item() for name, share in shares.items()}


def _uniform(pictures: Tensor, generator: torch.Generator) -> Tensor:
    return torch.rand(len(pictures), 1, 1, 1, generator=generator)


def _other(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """For each picture the number of another one."""
    n = len(pictures)
    return (torch.arange(n) + torch.randint(1, n, (n,), generator=generator)) % n


# --- samples against real digits ---


def recall(real: Tensor, samples: Tensor, neighbours: int = 3) -> float:
    """Returns the share of real pictures that lie on the manifold of samples.

    A real picture does if it is as near to some sample as that sample's k-th nearest other sample
    is. (Kynkäänniemi et al., 2019, https://arxiv.org/abs/1904.06991)

    Arguments:
        real: Features of real pictures, with shape (M, F).
        samples: Features of samples, with shape (N, F).
        neighbours: k.
    """
    if len(samples) <= neighbours:
        return 0.0
    radii = torch.cdist(samples, samples).kthvalue(neighbours + 1, dim=1).values
    return (torch.cdist(real, samples) <= radii).any(1).float().mean().item()
