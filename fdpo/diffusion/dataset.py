"""Pairs of pictures with the times and noise they are trained on.

A pair has draws of its own in every epoch, a function of the run's seed, the epoch and the pair
alone: neither the batch it falls into nor the number of processes matters, and a resumed run sees
the same. Both sides share them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from fdpo.diffusion.noise import NoiseProcess
from fdpo.preferences.pairs import SIDES
from fdpo.runs.cache import array_key
from fdpo.runs.seeds import derived_seed

Key = tuple[int, int]
"""The epoch and the number of a pair."""


class Pairs(Protocol):
    """Pairs of pictures: what :class:`PairDataset` takes.

    A pair holds ``chosen`` and ``rejected`` (which a trainer that only imitates the chosen does not
    ask for), tensors with shape (C, H, W), and may hold
    ``conditions``, a mapping with the sides' mappings ``chosen`` and ``rejected`` of what the model
    is called with besides. Where the pictures are yet to be encoded it says with ``noise_shape``
    what they will be noised as, and may hold whatever the trainer's ``encode`` takes instead of the
    sides. A random change of the pictures (a crop, a flip) is to be a function of
    the generator, once for both sides.
    """

    def __len__(self) -> int: ...

    def pair(self, index: int, generator: torch.Generator) -> Mapping[str, Any]: ...


@dataclass(frozen=True)
class ImagePairs:
    """Pairs of pictures in memory.

    Arguments:
        pictures: Pictures with values in :math:`[-1, 1]`, with shape (N, C, H, W).
        pairs: The numbers (chosen, rejected) of the pictures that meet.
    """

    pictures: Tensor
    pairs: Sequence[tuple[int, int]]

    def __len__(self) -> int:
        return len(self.pairs)

    def pair(self, index: int, generator: torch.Generator) -> dict[str, Tensor]:
        chosen, rejected = self.pairs[index]
        return {"chosen": self.pictures[chosen], "rejected": self.pictures[rejected]}


@dataclass(frozen=True)
class Pictures:
    """Pictures in memory to imitate, with values in :math:`[-1, 1]` and shape (N, C, H, W)."""

    pictures: Tensor

    def __len__(self) -> int:
        return len(self.pictures)

    def pair(self, index: int, generator: torch.Generator) -> dict[str, Tensor]:
        return {"chosen": self.pictures[index]}


class PairDataset(Dataset[dict[str, Any]]):
    """Pairs with their draws: ``times`` with shape (S) and ``noise`` with shape (S, C, H, W).

    Where they are asked for, ``keys``, for each side with shape (S, 2), tell a picture with its
    conditions, time and noise from any other.

    Arguments:
        pairs: The pairs.
        process: What draws the times.
        samples: The number S of draws for a pair.
        seed: The run's seed.
        repeat: The epochs with draws of their own, which later ones repeat; 0: every epoch.
        keyed: Whether to give keys.
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
        drawn = {**pair, "index": index, "times": times, "noise": noise}
        if self.keyed:
            # numbers enough to tell a noise from any other, and less to hash
            draws = list(zip(_array(times), _array(noise.flatten(1)[:, :16]), strict=True))
            drawn["keys"] = {side: _keys(pair, side, draws) for side in SIDES}
        return drawn


def _keys(pair: Mapping[str, Any], side: str, draws: Sequence[tuple[np.ndarray, ...]]) -> Tensor:
    conditions = _tensors(pair.get("conditions", {}).get(side, {}))
    shown = [_array(value) for value in (pair[side], *conditions)]
    return torch.from_numpy(np.array([array_key(*shown, *draw) for draw in draws]))


def _array(value: Tensor) -> np.ndarray:
    # numpy has no bfloat16
    return (value.view(torch.int16) if value.dtype == torch.bfloat16 else value).numpy()


def _tensors(conditions: Mapping[str, Any]) -> list[Tensor]:
    """The tensors of conditions, in the order of their names; mappings go deeper."""
    values = [conditions[name] for name in sorted(conditions)]
    parts = [_tensors(v) if isinstance(v, Mapping) else [v] for v in values]
    return [one for part in parts for one in part]


class ResumableSampler(Sampler[Key]):
    """Endless epochs of pairs, each in an order of its own, from any place on.

    Arguments:
        size: The number of pairs.
        length: The number of pairs to give.
        start: How many pairs were given before.
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
