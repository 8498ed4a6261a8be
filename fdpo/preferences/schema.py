"""Schema of preference data: rows of files to scored groups and pairs, errors that name the row."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from fdpo.preferences.pairs import SIDES, Group, Pair, PairingConfig, make_pairs, usable_pairs
from fdpo.runs.rows import read_rows, write_rows


def row_kind(row: Mapping[str, Any], source: str) -> Literal["groups", "pairs"]:
    """Returns the kind of a row, a scored group or a pair, by its columns."""
    if "chosen" in row or "rejected" in row:
        return "pairs"
    if "completions" in row or "answers" in row:
        return "groups"
    raise ValueError(
        f"{source}: neither pairs (chosen, rejected) nor groups (prompt, completions, scores); "
        f"found the columns {', '.join(row)}"
    )


def groups_from_rows(rows: Iterable[Mapping[str, Any]], source: str = "rows") -> list[Group]:
    """Returns the groups of rows, after checking them.

    Arguments:
        rows: Rows with the columns ``prompt``, ``completions``, ``scores`` and, if known,
            ``truncated`` and ``token_ids``; or slic-hf's ``prompt``, ``answers``, ``rm_scores``,
            where each answer begins with the prompt, which is removed.
        source: The name of the rows in errors.

    Raises:
        ValueError: If a row is wrong, naming it, or no completion is left.
    """
    groups = [_group(row, f"{source}, row {n}") for n, row in enumerate(rows, 1)]
    if not groups:
        raise ValueError(f"{source}: no rows")
    if not any(group.completions for group in groups):
        raise ValueError(f"{source}, row 1: no answer begins with its prompt, nor in any later row")
    return groups


def pairs_from_rows(rows: Iterable[Mapping[str, Any]], source: str = "rows") -> list[Pair]:
    """Returns the pairs of rows, plain or conversational, with or without prompt and scores."""
    pairs = [_pair(row, f"{source}, row {n}") for n, row in enumerate(rows, 1)]
    if not pairs:
        raise ValueError(f"{source}: no rows")
    return pairs


def preferences_from_rows(
    rows: Sequence[Mapping[str, Any]], source: str = "rows", pairing: PairingConfig | None = None
) -> tuple[list[Pair], Counter[str]]:
    """Returns the usable pairs of rows of either kind, with their counts (see `make_pairs`).

    Raises:
        ValueError: If a row is wrong, no pair is left, or the rows are pairs already and
            ``pairing`` changes the rule.
    """
    pairing = pairing or PairingConfig()
    if len(rows) and row_kind(rows[0], source) == "groups":
        groups = groups_from_rows(rows, source)
        return make_pairs(groups, **pairing.pairing_options(), source=source)
    if idle := set(pairing.changed()) - {"min_gap"}:
        raise ValueError(
            f"{source} holds pairs already: {', '.join(sorted(idle))} would only rank scored groups"
        )
    return usable_pairs(pairs_from_rows(rows, source), pairing.min_gap, source)


def _group(row: Mapping[str, Any], where: str) -> Group:
    slic = "answers" in row and "completions" not in row
    texts, values = ("answers", "rm_scores") if slic else ("completions", "scores")
    require_columns(row, ("prompt", texts, values), where)
    if not isinstance(row["prompt"], str):
        raise ValueError(f"{where}: prompt must be a text, not {type_name(row['prompt'])}")
    completions = get_list(row, texts, str, where)
    scores = [float(score) for score in get_list(row, values, (int, float), where)]
    truncated = [False] * len(completions)
    if row.get("truncated") is not None:
        truncated = get_list(row, "truncated", bool, where)
    if not len(completions) == len(scores) == len(truncated):
        raise ValueError(
            f"{where}: {len(completions)} {texts} but {len(scores)} {values} "
            f"and {len(truncated)} truncation marks"
        )
    if len(completions) < 2:
        raise ValueError(f"{where}: {len(completions)} {texts}; a group needs at least two")
    for i, score in enumerate(scores):
        if not math.isfinite(score):
            raise ValueError(f"{where}: {values}[{i}] is {score}, not a finite number")
    if slic:
        return _without_prompt(Group(row["prompt"], completions, scores, truncated))
    return Group(row["prompt"], completions, scores, truncated, token_ids=_group_tokens(row, where))


def _group_tokens(row: Mapping[str, Any], where: str) -> list[list[int]] | None:
    if row.get("token_ids") is None:
        return None
    tokens = get_list(row, "token_ids", list, where)
    if len(tokens) != len(row["completions"]):
        raise ValueError(
            f"{where}: {len(row['completions'])} completions but {len(tokens)} lists of token_ids"
        )
    named = {f"token_ids[{i}]": ids for i, ids in enumerate(tokens)}
    return [get_list(named, name, int, where) for name in named]


def _without_prompt(group: Group) -> Group:
    answers = [i for i, text in enumerate(group.completions) if text.startswith(group.prompt)]
    return Group(
        group.prompt,
        [group.completions[i][len(group.prompt) :] for i in answers],
        [group.scores[i] for i in answers],
        [group.truncated[i] for i in answers],
        left_out=len(group.completions) - len(answers),
    )


def _pair(row: Mapping[str, Any], where: str) -> Pair:
    require_columns(row, ("chosen", "rejected"), where)
    if row.get("tools"):
        raise ValueError(f"{where}: tools are not supported; write them into the prompt")
    prompt, *both = sides = [row.get("prompt"), row["chosen"], row["rejected"]]
    if all(_text_kind(side) == "messages" and side[0].get("content") == prompt for side in both):
        prompt = sides[0] = None  # a copy of the first message, as in ultrafeedback_binarized
    kinds = {_text_kind(side) for side in sides if side is not None}
    if None in both or "" in kinds:
        raise ValueError(f"{where}: prompt, chosen and rejected must be texts or lists of messages")
    if len(kinds) > 1:
        raise ValueError(
            f"{where}: texts beside lists of messages; leave out the column prompt if the messages "
            "hold the prompt"
        )
    scores = [get_optional(row, f"{side}_score", (int, float), where) for side in SIDES]
    marks = [get_optional(row, f"{side}_truncated", bool, where) for side in SIDES]
    tokens = [_tokens(row, f"{side}_token_ids", where) for side in SIDES]
    return Pair(prompt, row["chosen"], row["rejected"], *scores, *marks, *tokens)


def _tokens(row: Mapping[str, Any], name: str, where: str) -> list[int] | None:
    return None if row.get(name) is None else get_list(row, name, int, where)


def _text_kind(value: Any) -> str:
    if isinstance(value, str):
        return "text"
    messages = isinstance(value, list) and all(
        isinstance(message, Mapping) and "role" in message for message in value
    )
    return "messages" if messages and value else ""


def require_columns(row: Any, names: Sequence[str], where: str) -> None:
    """Raises `ValueError` unless a row has these columns; ``where`` names file and row in it."""
    if not isinstance(row, Mapping):
        raise ValueError(f"{where}: must hold named columns, not {type_name(row)}")
    missing = [name for name in names if name not in row]
    if missing:
        raise ValueError(
            f"{where}: no column {', '.join(missing)}; found {', '.join(row) or 'none'}"
        )


def get_optional(row: Mapping[str, Any], name: str, kind: Any, where: str) -> Any:
    """Returns the value of a column, after checking its kind; None where there is none."""
    value = row.get(name)
    if value is not None and not _is(value, kind):
        raise ValueError(f"{where}: {name} must be {_KINDS[kind]}, not {type_name(value)}")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{where}: {name} is {value}, not a finite number")
    return value


def get_list(row: Mapping[str, Any], name: str, kind: Any, where: str) -> list[Any]:
    """Returns the list in a column, after checking the kind of its values."""
    values = row[name]
    if not isinstance(values, list):
        raise ValueError(f"{where}: {name} must be a list, not {type_name(values)}")
    for i, value in enumerate(values):
        if not _is(value, kind):
            raise ValueError(f"{where}: {name}[{i}] must be {_KINDS[kind]}, not {type_name(value)}")
    return values


def type_name(value: Any) -> str:
    """Returns the name of a value's type, for errors."""
    return "null" if value is None else type(value).__name__


_KINDS: dict[Any, str] = {
    str: "a text",
    bool: "true or false",
    int: "an integer",
    (int, float): "a number",
    list: "a list",
}


def _is(value: Any, kind: Any) -> bool:
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))


def read_groups(path: str | Path) -> list[Group]:
    """Reads a file of scored groups (see `groups_from_rows`)."""
    return groups_from_rows(read_rows(path), str(path))


def read_pairs(path: str | Path) -> list[Pair]:
    """Reads a file of pairs (see `pairs_from_rows`)."""
    return pairs_from_rows(read_rows(path), str(path))


def write_groups(path: str | Path, groups: Iterable[Group]) -> None:
    """Writes a file that `read_groups` reads."""
    write_rows(path, (group.row() for group in groups))


def write_pairs(path: str | Path, pairs: Iterable[Pair]) -> None:
    """Writes a file that `read_pairs` and `datasets.load_dataset` read."""
    write_rows(path, (pair.row() for pair in pairs))
