"""A sampler that keeps the pairs of a prompt together and batches pairs of similar length."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from datasets import Dataset
from torch.utils.data import Sampler

from fdpo.llm.config import FDPOConfig
from fdpo.preferences.pairs import SIDES
from fdpo.runs.seeds import derived_seed

WINDOW = 32
"""Updates whose pairs are sorted by length; at most a quarter of an epoch."""


class PairSampler(Sampler[int]):
    """A random order in which pairs of a prompt, and in an update pairs of similar length, meet.

    Prompts are shuffled, sorted by length within windows of 32 updates (fewer where an epoch has
    few, so that every epoch has other updates), and cut into updates, whose order is random. The
    order is a function of the seed and the epoch alone.

    Arguments:
        prompts: For each pair, a value that identifies its prompt.
        lengths: For each pair, the tokens of its longer side with the prompt.
        update_size: Pairs of an update, all processes together.
        seed: The seed of the run.
    """

    def __init__(
        self, prompts: Sequence[object], lengths: Sequence[int], update_size: int, seed: int
    ) -> None:
        groups: dict[object, list[int]] = {}
        for number, prompt in enumerate(prompts):
            groups.setdefault(prompt, []).append(number)
        self.groups = list(groups.values())
        self.lengths, self.update_size, self.seed, self.epoch = lengths, update_size, seed, 0
        self.window = update_size * max(1, min(WINDOW, len(lengths) // (4 * update_size)))

    def __len__(self) -> int:
        return len(self.lengths)

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch, on which the order depends."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(derived_seed(self.seed, self.epoch))
        order = [self.groups[i] for i in torch.randperm(len(self.groups), generator=generator)]
        numbers = [number for window in self._windows(order) for number in self._sorted(window)]
        size = self.update_size
        updates = [numbers[i : i + size] for i in range(0, len(numbers), size)]
        last = len(updates) - (len(numbers) % size > 0)  # an incomplete update stays last
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


def pair_sampler(data: Dataset, args: FDPOConfig) -> PairSampler:
    """Makes the sampler of a dataset that TRL tokenised."""
    update_size = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
    seed = args.seed if args.data_seed is None else args.data_seed
    prompts = [tuple(ids) for ids in data["prompt_ids"]]
    sides = zip(*(map(len, data[f"{side}_ids"]) for side in SIDES), strict=True)
    lengths = [len(prompt) + max(both) for prompt, both in zip(prompts, sides, strict=True)]
    return PairSampler(prompts, lengths, update_size, seed)
