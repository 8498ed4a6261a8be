"""Scored groups of completions, the preference pairs of their ranks, and splits by prompt.

A *group* holds a prompt and n completions with their scores. Its completions are ranked, best
first (rank 0). A *rule* selects the ranks (i, j), i < j, that form a *pair* with rank i as its
chosen and rank j as its rejected side. A completion is a text or the path of an image.

Candidates that teach nothing (equal texts, equal scores, a gap that is too small) are dropped and
counted; an error is raised only if no pair is left.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal, TypeVar

from fdpo.preferences.boundaries import (
    Obstacle,
    Text,
    first_question,
    is_transcript,
    split_off_prompt,
)

Side = Literal["chosen", "rejected"]

SIDES: tuple[Side, Side] = ("chosen", "rejected")


@dataclass(frozen=True)
class Group:
    """A prompt with its completions and their scores.

    Arguments:
        prompt: The prompt.
        completions: Texts, or paths of images.
        scores: The score of each completion; larger is better.
        truncated: Marks completions that were cut before their end.
        left_out: The number of answers in the source that did not begin with their prompt.
        token_ids: The tokens of each completion as they were sampled, None where they are unknown.
    """

    prompt: str
    completions: list[str]
    scores: list[float]
    truncated: list[bool]
    left_out: int = 0
    token_ids: list[list[int]] | None = None

    def row(self) -> dict[str, Any]:
        """Returns the group as a row of a file."""
        row = {
            "prompt": self.prompt,
            "completions": self.completions,
            "scores": self.scores,
            "truncated": self.truncated,
        }
        return row if self.token_ids is None else {**row, "token_ids": self.token_ids}


@dataclass(frozen=True)
class Pair:
    """A chosen and a rejected completion of one prompt, in TRL's names.

    Without ``prompt``, both sides begin with it (TRL's implicit prompt). Scores, truncation marks
    and the tokens that were sampled are None where they are unknown; ``chat_template_kwargs`` are
    arguments of the chat template.
    """

    prompt: Text | None
    chosen: Text
    rejected: Text
    chosen_score: float | None = None
    rejected_score: float | None = None
    chosen_truncated: bool | None = None
    rejected_truncated: bool | None = None
    chosen_token_ids: list[int] | None = None
    rejected_token_ids: list[int] | None = None
    chat_template_kwargs: dict[str, Any] | None = None

    def row(self) -> dict[str, Any]:
        """Returns the pair as a row of a file, without unknown values."""
        values = {column.name: getattr(self, column.name) for column in fields(self)}
        return {name: value for name, value in values.items() if value is not None}

    @property
    def is_scored(self) -> bool:
        """True where both sides have a score."""
        return self.chosen_score is not None and self.rejected_score is not None


def _top_bottom(n: int, k: int, k_top: int) -> set[tuple[int, int]]:
    best_against_worst = {(0, j) for j in range(max(1, n - k), n)}
    return best_against_worst | {(i, n - 1) for i in range(min(k_top, n - 1))}


RULES: dict[str, Callable[[int, int, int], set[tuple[int, int]]]] = {
    "top_bottom": _top_bottom,
    "best_worst": lambda n, k, k_top: _top_bottom(n, 1, 1),
    "all": lambda n, k, k_top: {(i, j) for i in range(n) for j in range(i + 1, n)},
}
"""Rank rules: functions of the number of completions n, k and k_top to ranks (i, j), i < j."""


@dataclass
class PairingConfig:
    """Pairs of scored groups."""

    rule: str = field(
        default="top_bottom",
        metadata={"help": "ranks of a scored group that form pairs: " + ", ".join(RULES)},
    )
    k: int = field(default=3, metadata={"help": "top_bottom: the best with the k worst"})
    k_top: int = field(default=4, metadata={"help": "top_bottom: the k_top best with the worst"})
    min_gap: float = field(default=0.0, metadata={"help": "smallest score gap of a pair"})

    def __post_init__(self) -> None:
        rank_pairs(2, self.rule, self.k, self.k_top)
        if not self.min_gap >= 0:
            raise ValueError(f"min_gap must not be below 0, but is {self.min_gap}")
        if self.rule != "top_bottom" and (idle := set(self.changed()) & {"k", "k_top"}):
            raise ValueError(f"{', '.join(sorted(idle))}: no effect with the rule {self.rule}")

    def pairing_options(self) -> dict[str, Any]:
        """Returns the options as arguments of :func:`make_pairs`."""
        return {option.name: getattr(self, option.name) for option in fields(PairingConfig)}

    def changed(self) -> list[str]:
        """Returns the names of the options that differ from their defaults."""
        return [
            option.name
            for option in fields(PairingConfig)
            if getattr(self, option.name) != option.default
        ]


def rank_pairs(n: int, rule: str, k: int = 3, k_top: int = 4) -> list[tuple[int, int]]:
    """Returns the ranks (i, j), i < j, that a rule pairs among n ranked completions.

    ``top_bottom`` pairs the best with the ``k`` worst and the ``k_top`` best with the worst, each
    pair once; the defaults are slic-hf's six pairs of six answers. ``best_worst`` pairs the best
    with the worst only, ``all`` every two.

    Raises:
        ValueError: If there is no such rule, or ``k`` or ``k_top`` is below 1.

    Example:
        >>> rank_pairs(4, "top_bottom", k=2, k_top=1)
        [(0, 2), (0, 3)]
    """
    if rule not in RULES:
        raise ValueError(f"unknown rank rule {rule!r}; choose from {', '.join(RULES)}")
    if min(k, k_top) < 1:
        raise ValueError(f"k and k_top must be at least 1, not {k} and {k_top}")
    return sorted(RULES[rule](n, k, k_top))


def _candidates(group: Group, rule: str, k: int, k_top: int) -> Iterator[Pair]:
    ranked = sorted(range(len(group.scores)), key=lambda i: -group.scores[i])
    tokens: Sequence[list[int] | None] = group.token_ids or [None] * len(ranked)
    for i, j in rank_pairs(len(ranked), rule, k, k_top):
        best, worst = ranked[i], ranked[j]
        yield Pair(
            group.prompt,
            group.completions[best],
            group.completions[worst],
            group.scores[best],
            group.scores[worst],
            group.truncated[best],
            group.truncated[worst],
            tokens[best],
            tokens[worst],
        )


def make_pairs(
    groups: Sequence[Group],
    rule: str = "top_bottom",
    k: int = 3,
    k_top: int = 4,
    min_gap: float = 0.0,
    source: str = "the groups",
) -> tuple[list[Pair], Counter[str]]:
    """Pairs the completions of groups by a rank rule and counts every candidate.

    Arguments:
        groups: The scored groups.
        rule, k, k_top: The rule (:func:`rank_pairs`).
        min_gap: The smallest score gap of a pair.
        source: The name of the groups in errors.

    Returns:
        The pairs, and the counts of :func:`usable_pairs` with ``groups``, ``small_groups`` (fewer
        than two completions) and ``answers_without_prompt``.

    Raises:
        ValueError: If no pair is left.
    """
    candidates = [pair for group in groups for pair in _candidates(group, rule, k, k_top)]
    counts = Counter(
        groups=len(groups),
        small_groups=sum(len(group.completions) < 2 for group in groups),
        answers_without_prompt=sum(group.left_out for group in groups),
    )
    pairs, more = usable_pairs(candidates, min_gap, source)
    return pairs, counts + more


def usable_pairs(
    pairs: Sequence[Pair | Obstacle], min_gap: float = 0.0, source: str = "the pairs"
) -> tuple[list[Pair], Counter[str]]:
    """Selects the pairs that teach something, and counts the others by reason.

    ``candidates = made + equal_texts + equal_scores + small_gap + unscored + repeated``, where a
    small gap is one below ``min_gap`` (in units of the score), an unscored pair has no gap where
    one is asked for, and a repeated pair has the texts of an earlier one. An obstacle in place of a
    pair is counted as such: ``different_prompts`` or ``without_response``.

    Raises:
        ValueError: If no pair is left, or none has the scores that ``min_gap`` compares.
    """
    if min_gap and not any(pair.is_scored for pair in pairs if isinstance(pair, Pair)):
        raise ValueError(
            f"{source}: min_gap {min_gap:g} compares scores, and no pair has them "
            "(chosen_score and rejected_score)"
        )
    counts: Counter[str] = Counter(candidates=len(pairs))
    seen: set[str] = set()
    usable = []
    for pair in pairs:
        verdict = _verdict(pair, min_gap, seen)
        counts[verdict] += 1
        if verdict == "made" and isinstance(pair, Pair):
            usable.append(pair)
    if not usable:
        raise ValueError(f"{source}: no pair is left ({describe(counts)})")
    return usable, counts


def _verdict(pair: Pair | Obstacle, min_gap: float, seen: set[str]) -> str:
    if isinstance(pair, str):
        return pair
    if pair.chosen == pair.rejected:
        return "equal_texts"
    if min_gap and not pair.is_scored:
        return "unscored"
    if pair.chosen_score is not None and pair.rejected_score is not None:
        if pair.chosen_score == pair.rejected_score:
            return "equal_scores"
        if abs(pair.chosen_score - pair.rejected_score) < min_gap:
            return "small_gap"
    key = _digest(pair.prompt, pair.chosen, pair.rejected, pair.chat_template_kwargs).hex()
    if key in seen:
        return "repeated"
    seen.add(key)
    return "made"


def describe(counts: Mapping[str, int]) -> str:
    """Describes counts of pairs in one line: those made, and those dropped by reason."""
    dropped = ", ".join(
        f"{count:,} {name.replace('_', ' ')}"
        for name, count in counts.items()
        if count and name not in ("made", "candidates", "groups")
    )
    origin = f" of {counts['groups']:,} groups" if counts.get("groups") else ""
    made, candidates = counts.get("made", 0), counts.get("candidates", 0)
    return f"{made:,} pairs made of {candidates:,} candidates{origin}; dropped: {dropped or 'none'}"


Item = TypeVar("Item", Group, Pair)


def get_prompt(item: Group | Pair) -> Text:
    """Returns the text by which data are split: the prompt, of a dialogue its first question.

    Shorter and longer forms of a dialogue are on the same side of a split. A pair without a prompt
    has the one that both sides begin with (:func:`fdpo.preferences.boundaries.split_off_prompt`).
    """
    if item.prompt is not None:
        return first_question(item.prompt)
    assert isinstance(item, Pair)
    if isinstance(item.chosen, str) and not is_transcript(item.chosen):
        split = split_off_prompt(item.chosen, item.rejected)
        return item.chosen if isinstance(split, str) else split.prompt
    return first_question(item.chosen)


def split_by_prompt(
    items: Sequence[Item], test_size: float = 0.1, seed: int = 0
) -> tuple[list[Item], list[Item]]:
    """Splits groups or pairs into (train, test) so that no prompt is on both sides.

    Dialogues are split by their first question (:func:`get_prompt`), by their whole prompt if all
    begin with the same. Prompts with the lowest SHA-256 of seed and prompt are held out: the split
    depends neither on the order of the items nor on a random generator.

    Arguments:
        items: The groups or pairs.
        test_size: The share of the distinct prompts to hold out, in [0, 1).
        seed: The seed.
    """
    require_share(test_size)
    keys = [_digest(seed, get_prompt(item)) for item in items]
    if len(set(keys)) == 1:  # a question that begins every dialogue tells none apart
        keys = [_digest(seed, item.prompt) for item in items]
    ranked = sorted(set(keys))
    if test_size and len(ranked) < 2:
        raise ValueError(
            f"cannot split {len(ranked)} prompt(s) into train and test; set test_size=0"
        )
    size = min(max(round(test_size * len(ranked)), 1), len(ranked) - 1) if test_size else 0
    held_out = set(ranked[:size])
    train = [item for item, key in zip(items, keys, strict=True) if key not in held_out]
    test = [item for item, key in zip(items, keys, strict=True) if key in held_out]
    return train, test


def require_share(test_size: float) -> None:
    """Raises `ValueError` if a share of prompts to hold out is not in [0, 1)."""
    if not 0 <= test_size < 1:
        raise ValueError(f"test_size is a share of the prompts in [0, 1), not {test_size}")


def _digest(*values: object) -> bytes:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).digest()
