"""Batches as TRL's collators make them: the chosen sides of all pairs above the rejected ones.

Images, and collators that users bring along, come in such batches. A completion has a row of its
own with its prompt, and the model sees every field of the batch that it knows, such as
``pixel_values``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from datasets import Dataset

from fdpo.llm.collator import PairBatch
from fdpo.preferences.pairs import SIDES

MASK = "completion_mask"
"""The field that tells the tokens of completions; only stacked batches have it."""

Collator = Callable[[Sequence[Mapping[str, Any]]], MutableMapping[str, Any]]


@dataclass
class IndexedCollator:
    """A collator that is not ours, whose batches also hold ``pair_index``.

    Arguments:
        collator: The collator.
    """

    collator: Collator

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> MutableMapping[str, Any]:
        indices = [example.get("pair_index") for example in examples]
        batch = self.collator(examples)
        if all(isinstance(index, int) for index in indices):
            batch["pair_index"] = torch.tensor(indices)
        return batch


def require_unmarked(data: Any) -> None:
    """Raises ``ValueError`` if completions of rows with images are marked as truncated.

    TRL tokenises such rows batch by batch, and ends every completion.
    """
    for name in (f"{side}_truncated" for side in SIDES):
        if isinstance(data, Dataset) and name in data.column_names and any(data[name]):
            raise ValueError(f"{name}: cut completions of rows with images cannot be trained on")


@contextmanager
def naming_max_length(max_length: int | None) -> Iterator[None]:
    """Explains a model's complaint about images whose tokens ``max_length`` has cut."""
    try:
        yield
    except ValueError as error:
        if max_length is None or "image tokens do not match" not in str(error):
            raise
        raise ValueError(
            f"--max_length {max_length} cuts tokens of images: raise it, or leave it out with None"
        ) from error


def as_pair_batch(batch: Mapping[str, Any]) -> PairBatch:
    """Returns a batch of P pairs with the fields of a :class:`PairBatch`, beside its own.

    Raises:
        ValueError: If it is neither a stacked batch nor one of :class:`PairCollator`.
    """
    if "pairs" in batch:
        return cast(PairBatch, batch)
    if MASK not in batch:
        raise ValueError(
            f"data_collator: its batches need the field {MASK}, as those of TRL's "
            f"DataCollatorForPreference have it; found {', '.join(batch)}"
        )
    mask = batch[MASK][:, 1:].bool()  # the token before predicts a token
    rows = torch.arange(len(mask), device=mask.device)
    fields = {
        "pairs": rows.view(2, -1).T,
        "predicting": mask.nonzero(),
        "targets": batch["input_ids"][:, 1:][mask],
        "num_targets": mask.sum(dim=1),
    }
    return cast(PairBatch, {**fields, **batch})
