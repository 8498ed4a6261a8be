r"""A collator that runs each completion of a batch of pairs once, and long prompts once.

A completion that occurs in several pairs of a batch, as those of a scored group do, takes one place
in it. Completions of one prompt have a row each, or are packed into one row with their prompt,

.. code-block:: text

    p1 p2 | p3 a1 a2 a3 | p3 b1 b2          (prompt p1 p2 p3, completions a and b)

where the prompt's last token begins every completion, so that it predicts the first token of each,
and where a completion attends to its prompt and itself alone. Only positions that predict a token
of a completion meet the language model's head. None of this changes a log-probability.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, NotRequired, TypedDict

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerBase

from fdpo.llm.config import FDPOConfig
from fdpo.preferences.pairs import SIDES
from fdpo.runs.cache import array_key

PREFIX, PADDING = 0, -1
"""Segments of a packed row that belong to no completion."""


class PairBatch(TypedDict):
    """A batch of P pairs of N completions in R rows of L tokens, of which T are predicted.

    Accelerate reads the size of a batch from the first field, ``pairs``. Batches of other
    collators (:mod:`fdpo.llm.stacked`) hold further fields, and no ``keys``.
    """

    pairs: Tensor
    """Numbers of the chosen and the rejected completion, with shape (P, 2)."""
    input_ids: Tensor
    """Tokens, with shape (R, L)."""
    attention_mask: Tensor
    """1 for a token and 0 for padding, with shape (R, L)."""
    position_ids: NotRequired[Tensor]
    """Positions of the tokens of packed rows, with shape (R, L)."""
    segments: NotRequired[Tensor]
    """Number of the completion + 1, PREFIX or PADDING, of packed rows, with shape (R, L)."""
    predicting: Tensor
    """Rows and positions that predict the targets, with shape (T, 2)."""
    targets: Tensor
    """Tokens of one completion after the other, with shape (T)."""
    num_targets: Tensor
    """Targets of each completion, with shape (N)."""
    keys: NotRequired[Tensor]
    """Keys that tell completions, with their prompts, apart, with shape (N, 2)."""
    pair_index: NotRequired[Tensor]
    """Row of the dataset of each pair, with shape (P)."""
    ref_chosen_logps: NotRequired[Tensor]
    """The reference's log-probabilities of the chosen sides, precomputed, with shape (P)."""
    ref_rejected_logps: NotRequired[Tensor]
    """The same of the rejected sides, with shape (P)."""


class TokenisedCompletion(NamedTuple):
    """The tokens of a prompt and its completion, and the number of the prompt's."""

    ids: tuple[int, ...]
    prompt_length: int

    @property
    def targets(self) -> tuple[int, ...]:
        """The tokens whose probability counts: without a prompt, nothing predicts the first."""
        return self.ids[max(self.prompt_length, 1) :]

    @property
    def prompt(self) -> tuple[int, ...]:
        """The tokens of the prompt."""
        return self.ids[: self.prompt_length]

    @property
    def key(self) -> tuple[int, int]:
        """A digest of prompt and completion."""
        return array_key(np.array([self.prompt_length, *self.ids], dtype=np.int64))


class Rows(NamedTuple):
    """Rows of tokens with their positions and segments, and the beginnings of the targets.

    ``starts`` holds, for each completion, the row and position that predict its first target.
    """

    ids: list[list[int]]
    positions: list[list[int]]
    segments: list[list[int]]
    starts: list[tuple[int, int]]


def separate_rows(completions: Sequence[TokenisedCompletion]) -> Rows:
    """Gives each completion a row."""
    ids = [list(completion.ids) for completion in completions]
    starts = [(row, max(one.prompt_length, 1) - 1) for row, one in enumerate(completions)]
    positions = [list(range(len(row))) for row in ids]
    return Rows(ids, positions, [[PREFIX] * len(row) for row in ids], starts)


def packed_rows(completions: Sequence[TokenisedCompletion]) -> Rows:
    """Gives each prompt a row, with all its completions."""
    rows = Rows([], [], [], [(0, 0)] * len(completions))
    row_by_prompt: dict[tuple[int, ...], int] = {}
    for number, completion in enumerate(completions):
        last = completion.prompt_length - 1
        row = row_by_prompt.setdefault(completion.prompt, len(row_by_prompt))
        if row == len(rows.ids):
            rows.ids.append(list(completion.ids[:last]))
            rows.positions.append(list(range(last)))
            rows.segments.append([PREFIX] * last)
        rows.starts[number] = row, len(rows.ids[row])
        rows.ids[row] += completion.ids[last:]
        rows.positions[row] += range(last, len(completion.ids))
        rows.segments[row] += [number + 1] * (len(completion.ids) - last)
    return rows


def cost(rows: Rows, hidden_size: int) -> int:
    """Estimates the work of running rows: that of linear layers and attention, by their widths.

    A token costs :math:`24h^2` in the linear layers of a block of width h, and :math:`4hL` in its
    attention to L tokens; the common factor is left out.
    """
    length = max(map(len, rows.ids))
    return len(rows.ids) * length * (6 * hidden_size + length)


@dataclass
class PairCollator:
    """A collator of rows that TRL tokenised, with ``prompt_ids, chosen_ids, rejected_ids``.

    Arguments:
        pad_token_id: The token of padding.
        max_length: The longest prompt with a completion, in tokens; longer ones are truncated.
        truncation_mode: The part of those to keep: ``keep_start`` or ``keep_end``.
        pad_to_multiple_of: The length of rows is a multiple of it.
        packing: When to pack the completions of a prompt into one row: ``never``, ``always``
            (where every completion has a prompt), or where that is ``cheaper`` (:func:`cost`).
        hidden_size: The width of the model's blocks, which the cost depends on.
    """

    pad_token_id: int
    max_length: int | None = None
    truncation_mode: str = "keep_start"
    pad_to_multiple_of: int | None = None
    packing: Literal["never", "cheaper", "always"] = "never"
    hidden_size: int | None = None

    def __post_init__(self) -> None:
        if self.packing == "cheaper" and self.hidden_size is None:
            raise ValueError("packing 'cheaper' needs the hidden_size of the model")

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> PairBatch:
        numbers: dict[TokenisedCompletion, int] = {}
        pairs = [
            [numbers.setdefault(self._completion(example, side), len(numbers)) for side in SIDES]
            for example in examples
        ]
        completions = list(numbers)
        rows = self._rows(completions)
        num_targets = torch.tensor([len(completion.targets) for completion in completions])
        targets = [token for completion in completions for token in completion.targets]
        batch: dict[str, Tensor] = {
            "pairs": torch.tensor(pairs),
            **self._padded(rows),
            "predicting": _predicting(rows, num_targets),
            "targets": torch.tensor(targets, dtype=torch.long),  # also where there is none
            "num_targets": num_targets,
            "keys": torch.tensor([completion.key for completion in completions]),
            **dict(_columns(examples)),
        }
        return PairBatch(**batch)  # type: ignore[typeddict-item]

    def _completion(self, example: Mapping[str, Any], side: str) -> TokenisedCompletion:
        completion, prompt = list(example[f"{side}_ids"]), list(example["prompt_ids"])
        ids, excess = prompt + completion, 0
        if self.max_length is not None and len(ids) > self.max_length:
            excess = len(ids) - self.max_length
        if self.truncation_mode == "keep_start":
            return TokenisedCompletion(tuple(ids[: len(ids) - excess]), len(prompt))
        return TokenisedCompletion(tuple(ids[excess:]), max(0, len(prompt) - excess))

    def _rows(self, completions: Sequence[TokenisedCompletion]) -> Rows:
        separate = separate_rows(completions)
        if self.packing == "never" or min(one.prompt_length for one in completions) < 1:
            return separate
        packed = packed_rows(completions)
        if self.packing == "always":
            return packed
        return min(separate, packed, key=lambda rows: cost(rows, self.hidden_size or 0))

    def _padded(self, rows: Rows) -> dict[str, Tensor]:
        batch = {
            "input_ids": self._pad(rows.ids, self.pad_token_id),
            "attention_mask": self._pad([[1] * len(row) for row in rows.ids], 0),
        }
        if any(segment for row in rows.segments for segment in row):
            batch["position_ids"] = self._pad(rows.positions, 0)
            batch["segments"] = self._pad(rows.segments, PADDING)
        return batch

    def _pad(self, rows: Sequence[Sequence[int]], value: int) -> Tensor:
        multiple = self.pad_to_multiple_of or 1
        length = -(-max(map(len, rows)) // multiple) * multiple
        padded = [[*row, *[value] * (length - len(row))] for row in rows]
        return pad_sequence([torch.tensor(row) for row in padded], batch_first=True)


def make_collator(tokenizer: PreTrainedTokenizerBase, args: FDPOConfig) -> PairCollator:
    """Makes the collator as TRL would, padding with the end token where there is no other.

    Raises:
        ValueError: If ``args.pad_token`` is no token of the tokenizer.
    """
    pad_token = args.pad_token or tokenizer.pad_token or tokenizer.eos_token
    if pad_token not in tokenizer.get_vocab():
        raise ValueError(f"--pad_token {pad_token!r}: the tokenizer has no such token")
    if pad_token != tokenizer.pad_token:
        tokenizer.pad_token = pad_token
    return PairCollator(
        pad_token_id=tokenizer.pad_token_id,
        max_length=args.max_length,
        truncation_mode=args.truncation_mode,
        pad_to_multiple_of=args.pad_to_multiple_of,
    )


def _predicting(rows: Rows, num_targets: Tensor) -> Tensor:
    """Returns the rows and positions that predict the targets, with shape (T, 2)."""
    starts = torch.tensor(rows.starts).repeat_interleave(num_targets, 0)
    offsets = torch.cat([torch.arange(number) for number in num_targets.tolist()])
    return torch.stack([starts[:, 0], starts[:, 1] + offsets], 1)


def _columns(examples: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, Tensor]]:
    """Yields the columns of the dataset that a batch passes on, where the examples have them."""
    columns = {"pair_index": torch.long} | {f"ref_{side}_logps": torch.float for side in SIDES}
    for name, dtype in columns.items():
        if name in examples[0]:
            yield name, torch.tensor([example[name] for example in examples], dtype=dtype)
