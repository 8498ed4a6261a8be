"""The order of training: pairs of one prompt together, and pairs of like length."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import Sampler

from fdpo.runs.seeds import derived_seed

WINDOW = 32  # updates whose pairs are sorted by length; at most a quarter of an epoch


class PairSampler(Sampler[int]):
    """Random order in which a prompt's pairs stay together and an update's are of like length.

    Prompts are shuffled, sorted by length within windows of 32 updates (fewer where an epoch has
    few, so that each has updates of its own), and cut into updates, whose order is random. An
    epoch's order is a function of the seed and the epoch alone.

    Arguments:
        prompts: For each pair, something that tells its prompt from others.
        lengths: For each pair, the tokens of its longer side with the prompt.
        update: Pairs of an update, all processes together.
        seed: The run's seed.
    """

    def __init__(
        self, prompts: Sequence[object], lengths: Sequence[int], update: int, seed: int
    ) -> None:
        groups: dict[object, list[int]] = {}
        for number, prompt in enumerate(prompts):
            groups.setdefault(prompt, []).append(number)
        self.groups = list(groups.values())
        self.lengths, self.update, self.seed, self.epoch = lengths, update, seed, 0
        self.window = update * max(1, min(WINDOW, len(lengths) // (4 * update)))

    def __len__(self) -> int:
        return len(self.lengths)

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch, which decides on the order."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(derived_seed(self.seed, self.epoch))
        order = [self.groups[i] for i in torch.randperm(len(self.groups), generator=generator)]
        numbers = [number for window in self._windows(order) for number in self._sorted(window)]
        updates = [numbers[i : i + self.update] for i in range(0, len(numbers), self.update)]
        last = len(updates) - (len(numbers) % self.update > 0)  # an incomplete one stays last
        for i in torch.randperm(last, generator=generator).tolist():
            yield from updates[i]
        for update in updates[last:]:
            yield from update

    def _windows(self, order: Sequence[list[int]]) -> Iterator[list[list[int]]]:
        window: list[list[int]] = []
        size = 0
        for group in order:
            window.append(group)
            size += len(group)
            if size >= self.window:
                yield window
                window, size = [], 0
        yield window

    def _sorted(self, window: list[list[int]]) -> Iterator[int]:
        for group in sorted(window, key=lambda group: max(self.lengths[i] for i in group)):
            yield from group
