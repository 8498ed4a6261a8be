"""Explicit prompts for pairs whose sides begin with their prompt, with or without naming it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from fdpo.preferences.boundaries import START_ROLES, Obstacle, Text, has_role, split_off_prompt
from fdpo.preferences.pairs import Pair
from fdpo.runs.notes import note

SHORT = 10
"""Characters below which a guessed prompt is short, and a repeated text may be a chance."""


@dataclass
class PromptNotes:
    """Counts of what was done to the prompts of pairs.

    Attributes:
        transcripts: Prompts of transcripts.
        guessed: Prompts that end at a boundary of the shared text.
        short: Those of them that are short or empty.
        repeated: Prompts that were given and stood in the sides too, or went on there.
        example: The row, from 1, and the text of the first guessed prompt.
    """

    transcripts: int = 0
    guessed: int = 0
    short: int = 0
    repeated: int = 0
    example: tuple[int, str] | None = field(default=None)

    def lines(self, source: str) -> list[str]:
        """Returns a line for each kind."""
        lines = []
        if self.transcripts:
            lines.append(
                f"{source}: {self.transcripts:,} transcripts; a prompt ends where the last "
                "Assistant turn of both sides begins"
            )
        if self.guessed and self.example:
            row, prompt = self.example
            lines.append(
                f"{source}: {self.guessed:,} pairs have no prompt: it is what both sides share, up "
                f"to the end of a line, sentence or word, as in row {row}: {_shown(prompt)}"
                + (f"; {self.short:,} are empty or below {SHORT} characters" if self.short else "")
            )
        if self.repeated:
            lines.append(
                f"{source}: the sides of {self.repeated:,} pairs hold their prompt; it stands once"
            )
        return lines


def explicit_pairs(pairs: Sequence[Pair], source: str = "the pairs") -> list[Pair | Obstacle]:
    """Returns each pair with its prompt apart from its sides, or the reason why it has none.

    Pairs whose sides are responses alone stay as they are. A line notes each kind of prompt that
    was split off, with an example where it was guessed.

    Arguments:
        pairs: The pairs.
        source: The name of the pairs in the notes.
    """
    notes = PromptNotes()
    results = [explicit_pair(pair, row, notes) for row, pair in enumerate(pairs, 1)]
    for line in notes.lines(source):
        note(line)
    return results


def explicit_pair(pair: Pair, row: int = 1, notes: PromptNotes | None = None) -> Pair | Obstacle:
    """Returns a pair as :func:`explicit_pairs` does; ``notes`` count what was done."""
    notes = notes or PromptNotes()
    if isinstance(pair.prompt, list):
        return _without_repeated_messages(pair, pair.prompt, notes)
    if pair.prompt is not None:
        return _without_repeated_text(pair, pair.prompt, notes)
    split = split_off_prompt(pair.chosen, pair.rejected)
    if isinstance(split, str):
        return split
    if split.guessed:
        prompt = str(split.prompt)
        notes.guessed += 1
        notes.short += len(prompt.strip()) < SHORT
        notes.example = notes.example or (row, prompt)
    elif isinstance(split.prompt, str):
        notes.transcripts += 1
    return replace(pair, prompt=split.prompt, chosen=split.chosen, rejected=split.rejected)


def _without_repeated_messages(
    pair: Pair, prompt: list[dict[str, Any]], notes: PromptNotes
) -> Pair | Obstacle:
    """Returns a pair whose sides hold no question, where a side begins or continues with one.

    Sides that are responses at first and differ in later questions stay as they were given.
    """
    sides = [side for side in (pair.chosen, pair.rejected) if isinstance(side, list)]
    if not any(has_role(message, START_ROLES) for side in sides for message in side):
        return pair
    split = split_off_prompt(*(_whole(prompt, side) for side in sides))
    if isinstance(split, str):
        return split if any(map(_holds_prompt, sides)) else pair
    notes.repeated += 1
    return replace(pair, prompt=split.prompt, chosen=split.chosen, rejected=split.rejected)


def _whole(prompt: list[dict[str, Any]], side: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns a side after its prompt, or after those messages of it that it does not repeat."""
    if not _holds_prompt(side):
        return prompt + side
    stated = [(message["role"], message.get("content")) for message in side]
    return [m for m in prompt if (m["role"], m.get("content")) not in stated] + side


def _holds_prompt(side: list[dict[str, Any]]) -> bool:
    return has_role(side[0], START_ROLES)


def _without_repeated_text(pair: Pair, prompt: str, notes: PromptNotes) -> Pair:
    sides = [str(pair.chosen), str(pair.rejected)]
    sampled = pair.chosen_token_ids or pair.rejected_token_ids  # after the prompt
    if sampled or len(prompt) < SHORT or not all(side.startswith(prompt) for side in sides):
        return pair
    notes.repeated += 1
    chosen, rejected = (side[len(prompt) :] for side in sides)
    return replace(pair, chosen=chosen, rejected=rejected)


def _shown(prompt: Text) -> str:
    return repr(prompt if len(prompt) <= 60 else f"…{prompt[-60:]}")
