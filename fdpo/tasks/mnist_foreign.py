"""Images that are no digits: the typical failures of bad image models.

Each function makes such images from images of digits, with shape (N, 1, 28, 28) and values in
:math:`[-1, 1]`, and a generator.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate


def noise(images: Tensor, generator: torch.Generator) -> Tensor:
    """Returns Gaussian noise of random scale and mean, smooth or not."""
    n = len(images)
    scale = 0.3 + 1.2 * _uniform(images, generator)
    fine = torch.randn(images.shape, generator=generator)
    coarse = interpolate(torch.randn(n, 1, 14, 14, generator=generator), size=28, mode="bilinear")
    centre = 2 * _uniform(images, generator) - 1
    smooth = _uniform(images, generator) < 0.3
    return (centre + scale * torch.where(smooth, coarse, fine)).clamp(-1, 1)


def blank(images: Tensor, generator: torch.Generator) -> Tensor:
    """Returns images of one grey, from black to white, with little noise."""
    grey = 2 * _uniform(images, generator) - 1
    ends = torch.rand(grey.shape, generator=generator) < 0.5
    grey = torch.where(ends, grey.sign(), grey)
    return (grey + 0.05 * torch.randn(images.shape, generator=generator)).clamp(-1, 1)


def blended(images: Tensor, generator: torch.Generator) -> Tensor:
    """Returns averages of two images."""
    return (images + images[_other(images, generator)]) / 2


def shuffled(images: Tensor, generator: torch.Generator) -> Tensor:
    """Returns images with their pixels in random order."""
    order = torch.rand(len(images), images[0].numel(), generator=generator).argsort(1)
    return images.flatten(1).gather(1, order).view_as(images)


def halved(images: Tensor, generator: torch.Generator) -> Tensor:
    """Returns images whose halves, left and right or top and bottom, are of two images."""
    other = images[_other(images, generator)]
    line = torch.arange(28) < 14
    sides = line.view(1, 1, 1, 28).expand(1, 1, 28, 28)
    turned = torch.rand(len(images), 1, 1, 1, generator=generator) < 0.5
    return torch.where(torch.where(turned, sides, sides.transpose(2, 3)), images, other)


def blurred(images: Tensor, generator: torch.Generator) -> Tensor:
    """Returns images out of focus."""
    return avg_pool2d(images, 7, 1, 3, count_include_pad=False)


def inverted(images: Tensor, generator: torch.Generator) -> Tensor:
    """Returns images in black on white."""
    return -images


FOREIGN = {
    "noise": noise,
    "blank": blank,
    "blended": blended,
    "shuffled": shuffled,
    "halved": halved,
    "blurred": blurred,
    "inverted": inverted,
}
"""Kind of image -> function of images of digits and a generator."""


def _uniform(images: Tensor, generator: torch.Generator) -> Tensor:
    return torch.rand(len(images), 1, 1, 1, generator=generator)


def _other(images: Tensor, generator: torch.Generator) -> Tensor:
    """Returns for each image the index of another image."""
    n = len(images)
    return (torch.arange(n) + torch.randint(1, n, (n,), generator=generator)) % n
