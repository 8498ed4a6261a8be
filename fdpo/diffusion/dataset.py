"""Image preference pairs with the times and noise of each training sample.

The times and noise of a pair are a function of the run's seed, the epoch and the pair's index, so
neither the batch size nor the number of processes changes them, and a resumed run repeats them.
Both sides of a pair share them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Required, TypedDict

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from fdpo.diffusion.noise import NoiseProcess
from fdpo.preferences.pairs import SIDES
from fdpo.runs.cache import array_key
from fdpo.runs.seeds import derived_seed

Key = tuple[int, int]
"""The epoch and the index of a pair."""


class ImagePairBatch(TypedDict, total=False):
    """A batch of B pairs of images (or latents), each with S times and noises.

    Fields:
        index: The indices of the pairs, with shape (B).
        times: The times, with shape (B, S).
        noise: The noise, with shape (B, S, C, H, W).
        chosen: The chosen images, with shape (B, C, H, W).
        rejected: The rejected images, with shape (B, C, H, W); absent if the loss does not compare.
        conditions: For each side, the further arguments of the model by name.
        keys: For each side, the keys of the reference cache, with shape (B, S, 2).
    """

    index: Required[Tensor]
    times: Required[Tensor]
    noise: Required[Tensor]
    chosen: Required[Tensor]
    rejected: Tensor
    conditions: Mapping[str, Mapping[str, Any]]
    keys: Mapping[str, Tensor]


class Pairs(Protocol):
    """Pairs of images for :class:`PairDataset`."""

    def __len__(self) -> int:
        """Returns the number of pairs."""
        ...

    def pair(self, index: int, generator: torch.Generator) -> Mapping[str, Any]:
        """Returns a pair by name.

        Its fields are ``chosen`` and ``rejected``, tensors with shape (C, H, W) (a method that does
        not compare needs no ``rejected``), and optionally ``conditions``: for each side, the
        further arguments of the model by name. Pairs that the trainer's ``encode`` turns into
        images hold the inputs of ``encode`` instead, and the shape of the noise, ``noise_shape``.

        Arguments:
            index: The index of the pair.
            generator: The source of random transforms (a crop, a flip), one for both sides.
        """
        ...


@dataclass(frozen=True)
class ImagePairs:
    """Pairs of images in memory.

    Arguments:
        images: Images with values in :math:`[-1, 1]`, with shape (N, C, H, W).
        pairs: The pairs, as indices (chosen, rejected) of images.

    Example:
        >>> pairs = ImagePairs(torch.zeros(4, 1, 28, 28), [(0, 2), (1, 3)])
        >>> len(pairs), pairs.pair(1, torch.Generator())["rejected"].shape
        (2, torch.Size([1, 28, 28]))
    """

    images: Tensor
    pairs: Sequence[tuple[int, int]]

    def __len__(self) -> int:
        return len(self.pairs)

    def pair(self, index: int, generator: torch.Generator) -> dict[str, Tensor]:
        chosen, rejected = self.pairs[index]
        return {"chosen": self.images[chosen], "rejected": self.images[rejected]}


@dataclass(frozen=True)
class Images:
    """Images in memory for supervised training, with values in [-1, 1] and shape (N, C, H, W)."""

    images: Tensor

    def __len__(self) -> int:
        return len(self.images)

    def pair(self, index: int, generator: torch.Generator) -> dict[str, Tensor]:
        return {"chosen": self.images[index]}


class PairDataset(Dataset[dict[str, Any]]):
    """Pairs with their times and noise, the examples of an :class:`ImagePairBatch`.

    Arguments:
        pairs: The pairs.
        process: The noising process, which samples the times.
        samples: The number S of times and noises per pair.
        seed: The run's seed.
        repeat: The number of epochs with their own times and noise, which later epochs repeat; 0:
            every epoch has its own.
        keyed: Adds ``keys``, which identify an image with its conditions, time and noise.
    """

    def __init__(
        self,
        pairs: Pairs,
        process: NoiseProcess,
        samples: int = 1,
        seed: int = 0,
        repeat: int = 0,
        keyed: bool = False,
    ) -> None:
        self.pairs, self.process, self.samples = pairs, process, samples
        self.seed, self.repeat, self.keyed = seed, repeat, keyed

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, key: Key) -> dict[str, Any]:
        epoch, index = key
        epoch = epoch % self.repeat if self.repeat else epoch
        generator = torch.Generator().manual_seed(derived_seed(self.seed, epoch, index))
        times = self.process.draw_times(self.samples, generator)
        pair = dict(self.pairs.pair(index, generator))
        shape = pair.pop("noise_shape", None) or pair["chosen"].shape
        noise = torch.randn(self.samples, *shape, generator=generator)
        example = {**pair, "index": index, "times": times, "noise": noise}
        if self.keyed:
            # The first 16 values identify a noise and are quicker to hash.
            parts = list(zip(_array(times), _array(noise.flatten(1)[:, :16]), strict=True))
            example["keys"] = {side: _keys(pair, side, parts) for side in SIDES}
        return example


def _keys(pair: Mapping[str, Any], side: str, parts: Sequence[tuple[np.ndarray, ...]]) -> Tensor:
    conditions = _tensors(pair.get("conditions", {}).get(side, {}))
    arrays = [_array(value) for value in (pair[side], *conditions)]
    return torch.from_numpy(np.array([array_key(*arrays, *part) for part in parts]))


def _array(value: Tensor) -> np.ndarray:
    # numpy has no bfloat16
    return (value.view(torch.int16) if value.dtype == torch.bfloat16 else value).numpy()


def _tensors(conditions: Mapping[str, Any]) -> list[Tensor]:
    """Returns the tensors of nested conditions, sorted by name."""
    values = [conditions[name] for name in sorted(conditions)]
    parts = [_tensors(v) if isinstance(v, Mapping) else [v] for v in values]
    return [tensor for part in parts for tensor in part]


class ResumableSampler(Sampler[Key]):
    """Endless epochs of pairs, each in another random order, from any pair on.

    Arguments:
        size: The number of pairs.
        length: The number of keys to yield.
        start: The number of keys that were yielded before.
        seed: The run's seed.
    """

    def __init__(self, size: int, length: int, start: int = 0, seed: int = 0) -> None:
        self.size, self.length, self.start, self.seed = size, length, start, seed

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[Key]:
        epoch, place = divmod(self.start, self.size)
        order = self._order(epoch)
        for _ in range(self.length):
            if place == self.size:
                epoch, place = epoch + 1, 0
                order = self._order(epoch)
            yield epoch, order[place]
            place += 1

    def _order(self, epoch: int) -> list[int]:
        generator = torch.Generator().manual_seed(derived_seed(self.seed, epoch))
        return torch.randperm(self.size, generator=generator).tolist()
