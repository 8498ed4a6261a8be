r"""What a batch of pairs is run as: each completion once, and long prompts once.

A completion that stands in several pairs of a batch, as those of a scored group do, has one place
in it. Completions of one prompt have a row each, or share one with their prompt,

.. code-block:: text

    p1 p2 | p3 a1 a2 a3 | p3 b1 b2          (prompt p1 p2 p3, completions a and b)

where the prompt's last token begins every completion, so that it predicts the first token of each,
and where a completion sees its prompt and itself alone. Only positions that predict a token of a
completion meet the language model's head. None of this changes a log-probability.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from fdpo.preferences.pairs import SIDES
from fdpo.runs.cache import array_key

PAIR = "pair_index"
PREFIX, PADDING = 0, -1  # segments of a shared row that are no completion's


class Text(NamedTuple):
    """The tokens of a prompt and its completion, and how many are the prompt's."""

    ids: tuple[int, ...]
    prompt: int

    @property
    def targets(self) -> tuple[int, ...]:
        """The tokens whose probability counts: without a prompt, nothing predicts the first."""
        return self.ids[max(self.prompt, 1) :]

    @property
    def key(self) -> tuple[int, int]:
        """What tells texts apart."""
        return array_key(np.array([self.prompt, *self.ids], dtype=np.int64))


class Rows(NamedTuple):
    """Rows of tokens with their positions and segments, and where each text's targets begin.

    ``starts`` holds, for each text, its row and the place in it that predicts its first target.
    """

    ids: list[list[int]]
    positions: list[list[int]]
    segments: list[list[int]]
    starts: list[tuple[int, int]]


def separate(texts: Sequence[Text]) -> Rows:
    """Gives each text a row."""
    ids = [list(text.ids) for text in texts]
    starts = [(row, max(text.prompt, 1) - 1) for row, text in enumerate(texts)]
    positions = [list(range(len(row))) for row in ids]
    return Rows(ids, positions, [[PREFIX] * len(row) for row in ids], starts)


def shared(texts: Sequence[Text]) -> Rows:
    """Gives each prompt a row, with all its completions."""
    rows = Rows([], [], [], [(0, 0)] * len(texts))
    places: dict[tuple[int, ...], int] = {}
    for number, text in enumerate(texts):
        last = text.prompt - 1
        row = places.setdefault(text.ids[: text.prompt], len(places))
        if row == len(rows.ids):
            rows.ids.append(list(text.ids[:last]))
            rows.positions.append(list(range(last)))
            rows.segments.append([PREFIX] * last)
        rows.starts[number] = row, len(rows.ids[row])
        rows.ids[row] += text.ids[last:]
        rows.positions[row] += range(last, len(text.ids))
        rows.segments[row] += [number + 1] * (len(text.ids) - last)
    return rows


def cost(rows: Rows, hidden_size: int) -> int:
    """Estimates the work of running rows: that of linear layers and attention, by their widths.

    A token costs :math:`24h^2` in the linear layers of a block of width h, and :math:`4hL` in its
    attention over L places; the common factor is left out.
    """
    length = max(map(len, rows.ids))
    return len(rows.ids) * length * (6 * hidden_size + length)


@dataclass
class PairCollator:
    """Makes a batch of rows that TRL tokenised, with ``prompt_ids, chosen_ids, rejected_ids``.

    TRL ends every text with the end token; a completion that stopped at a length limit did not end
    there, and must not teach the policy that it did. Rows say so in ``chosen_truncated`` and
    ``rejected_truncated``.

    A batch of P pairs of N completions in R rows of L tokens holds ``pairs``, with shape (P, 2),
    the numbers of chosen and rejected completions; ``input_ids`` and ``attention_mask``, with shape
    (R, L); where prompts are shared also ``position_ids`` and ``segments`` like them; ``scored``,
    with shape (T, 2), the rows and places that predict the ``targets``, with shape (T), of one
    completion after the other, ``sizes``, with shape (N), of each; and ``keys``, with shape (N, 2),
    which tell completions, with their prompts, apart.

    Arguments:
        pad_token_id: What fills rows up.
        max_length: The longest prompt with a completion, tokens; longer ones are cut.
        truncation_mode: What is kept of those: ``keep_start`` or ``keep_end``.
        pad_to_multiple_of: What the length of rows is a multiple of.
        eos_token_id: The end token.
        hidden_size: The width of the model's blocks, by which sharing a prompt is weighed against
            rows of its own; None: completions never share rows.
    """

    pad_token_id: int
    max_length: int | None = None
    truncation_mode: str = "keep_start"
    pad_to_multiple_of: int | None = None
    eos_token_id: int | None = None
    hidden_size: int | None = None

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        numbers: dict[Text, int] = {}
        pairs = [
            [numbers.setdefault(self._text(example, side), len(numbers)) for side in SIDES]
            for example in examples
        ]
        texts = list(numbers)
        rows = self._rows(texts)
        batch = {"pairs": torch.tensor(pairs), **self._padded(rows)}
        sizes = torch.tensor([len(text.targets) for text in texts])
        starts = torch.tensor(rows.starts).repeat_interleave(sizes, 0)
        within = torch.cat([torch.arange(size) for size in sizes.tolist()])
        batch["scored"] = torch.stack([starts[:, 0], starts[:, 1] + within], 1)
        targets = [token for text in texts for token in text.targets]
        batch["targets"] = torch.tensor(targets, dtype=torch.long)  # also where there is none
        batch["sizes"] = sizes
        batch["keys"] = torch.tensor([text.key for text in texts])
        given = {PAIR: torch.long} | {f"ref_{side}_logps": torch.float for side in SIDES}
        for name, dtype in given.items():
            if name in examples[0]:
                batch[name] = torch.tensor([example[name] for example in examples], dtype=dtype)
        return batch

    def _text(self, example: Mapping[str, Any], side: str) -> Text:
        completion, prompt = list(example[f"{side}_ids"]), list(example["prompt_ids"])
        if example.get(f"{side}_truncated") and completion[-1:] == [self.eos_token_id]:
            completion = completion[:-1]
        ids, cut = prompt + completion, 0
        if self.max_length is not None and len(ids) > self.max_length:
            cut = len(ids) - self.max_length
        if self.truncation_mode == "keep_start":
            return Text(tuple(ids[: len(ids) - cut]), len(prompt))
        return Text(tuple(ids[cut:]), max(0, len(prompt) - cut))

    def _rows(self, texts: Sequence[Text]) -> Rows:
        rows = separate(texts)
        if self.hidden_size is None or min(text.prompt for text in texts) < 1:
            return rows
        together = shared(texts)
        return min(rows, together, key=lambda found: cost(found, self.hidden_size or 0))

    def _padded(self, rows: Rows) -> dict[str, Tensor]:
        batch = {
            "input_ids": self._filled(rows.ids, self.pad_token_id),
            "attention_mask": self._filled([[1] * len(row) for row in rows.ids], 0),
        }
        if any(segment for row in rows.segments for segment in row):
            batch["position_ids"] = self._filled(rows.positions, 0)
            batch["segments"] = self._filled(rows.segments, PADDING)
        return batch

    def _filled(self, rows: Sequence[Sequence[int]], value: int) -> Tensor:
        of = self.pad_to_multiple_of or 1
        length = -(-max(map(len, rows)) // of) * of
        ends = [[*row, *[value] * (length - len(row))] for row in rows]
        return pad_sequence([torch.tensor(row) for row in ends], batch_first=True)
