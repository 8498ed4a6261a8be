"""Schema of preference data: rows of files to scored groups and pairs, errors that name the row."""

from __future__ import annotations

import math
import re
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from fdpo.preferences.boundaries import (
    PROMPT_ROLES,
    SYSTEM_ROLES,
    Obstacle,
    Text,
    has_role,
    is_transcript,
)
from fdpo.preferences.columns import PARSED, canonical_names, rename_columns, unread_texts
from fdpo.preferences.implicit_prompts import explicit_pairs
from fdpo.preferences.pairs import SIDES, Group, Pair, PairingConfig, make_pairs, usable_pairs
from fdpo.runs.notes import note
from fdpo.runs.rows import Cell, read_rows, write_rows

AnyText = TypeVar("AnyText", str, list[dict[str, Any]], Text)


def row_kind(row: Mapping[str, Any], source: str) -> Literal["groups", "pairs"]:
    """Returns the kind of a row, a scored group or a pair, by its columns."""
    if {"chosen", "rejected"} & canonical_names(row):
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
    rows = rename_columns(list(rows), source)
    groups = [_group(row, f"{source}, row {n}") for n, row in enumerate(rows, 1)]
    if not groups:
        raise ValueError(f"{source}: no rows")
    if not any(group.completions for group in groups):
        raise ValueError(f"{source}, row 1: no answer begins with its prompt, nor in any later row")
    return groups


def pairs_from_rows(rows: Iterable[Mapping[str, Any]], source: str = "rows") -> list[Pair]:
    """Returns the pairs of rows, plain or conversational, with or without prompt and scores."""
    rows = rename_columns(list(rows), source)
    pairs = [_pair(row, f"{source}, row {n}") for n, row in enumerate(rows, 1)]
    if not pairs:
        raise ValueError(f"{source}: no rows")
    return pairs


def preferences_from_rows(
    rows: Sequence[Mapping[str, Any]], source: str = "rows", pairing: PairingConfig | None = None
) -> tuple[list[Pair], Counter[str]]:
    """Returns the usable pairs of rows of either kind, with their counts.

    The counts are those of :func:`make_pairs` with ``different_prompts`` (both sides begin with
    prompts, which differ) and ``without_response`` (a dialogue that nobody answers).

    Raises:
        ValueError: If a row is wrong, a column that may hold the prompt has an unknown name, no
            pair is left, or the rows are pairs already and ``pairing`` changes the rule.
    """
    pairing = pairing or PairingConfig()
    columns = {name: None for row in rows if isinstance(row, Mapping) for name in row}
    if columns and row_kind(columns, source) == "groups":
        rows = rename_columns(rows, source)
        groups = groups_from_rows(rows, source)
        note_columns(rows, unread_texts(rows), source)
        return make_pairs(groups, **pairing.pairing_options(), source=source)
    if idle := set(pairing.changed()) - {"min_gap"}:
        raise ValueError(
            f"{source} holds pairs already: {', '.join(sorted(idle))} would only rank scored groups"
        )
    rows = rename_columns(rows, source)
    pairs = pairs_from_rows(rows, source)
    require_one_kind(pairs, source)
    require_prompts(rows, pairs, source)
    return usable_pairs(explicit_pairs(pairs, source), pairing.min_gap, source)


def explicit_rows(rows: Sequence[Any], source: str) -> list[dict[str, Any] | Obstacle]:
    """Returns rows of pairs with their texts as they are read, or the reason why one has no prompt.

    Columns get the names that are read; ``prompt`` is apart from ``chosen`` and ``rejected``.

    Raises:
        ValueError: As :func:`preferences_from_rows`.
    """
    rows = rename_columns(rows, source)
    texts = [sides_from_row(row, f"{source}, row {n}") for n, row in enumerate(rows, 1)]
    pairs = [Pair(*sides) for sides in texts]
    require_one_kind(pairs, source)
    require_prompts(rows, pairs, source)
    results = explicit_pairs(pairs, source)
    return [
        result if isinstance(result, str) else {**row, **result.row()}
        for row, result in zip(rows, results, strict=True)
    ]


def require_one_kind(pairs: Sequence[Pair], source: str) -> None:
    """Raises `ValueError`, naming the first row that differs, unless all are texts or dialogues."""
    kinds = ["a text" if isinstance(pair.chosen, str) else "a list of messages" for pair in pairs]
    for row, kind in enumerate(kinds, 1):
        if kind != kinds[0]:
            raise ValueError(f"{source}, row {row}: {kind}, but row 1 is {kinds[0]}")


def require_prompts(rows: Sequence[Mapping[str, Any]], pairs: Sequence[Pair], source: str) -> None:
    """Raises `ValueError` if the prompt may be in a column that nothing reads; notes those else."""
    unread = unread_texts(rows)
    wordy = [name for name, can_be_prompt in unread.items() if can_be_prompt]
    if wordy and all(pair.prompt is None for pair in pairs) and any(map(_answers_only, pairs)):
        raise ValueError(
            f"{source}: no column prompt, but {', '.join(wordy)}: rename the one that holds the "
            "prompt to prompt, or leave them out if both sides begin with it"
        )
    note_columns(rows, unread, source)


def note_columns(rows: Sequence[Mapping[str, Any]], unread: Iterable[str], source: str) -> None:
    """Notes a column of system messages, and the columns of text that nothing reads."""
    if any(row.get("system") for row in rows):
        note(f"{source}: each prompt begins with the text of the column system")
    if unread:
        note(f"{source}: columns that are not used: {', '.join(unread)}")


def _answers_only(pair: Pair) -> bool:
    """Returns whether the sides of a pair may be responses without their prompt."""
    if isinstance(pair.chosen, str):
        return not is_transcript(pair.chosen)
    return not has_role(pair.chosen[0], PROMPT_ROLES)


def _group(row: Mapping[str, Any], where: str) -> Group:
    require_columns(row, (), where)
    slic = "answers" in row and "completions" not in row
    texts, values = ("answers", "rm_scores") if slic else ("completions", "scores")
    require_columns(row, ("prompt", texts, values), where)
    row = _with_values(row)
    if not isinstance(row["prompt"], str):
        raise ValueError(f"{where}: prompt must be a text, not {type_name(row['prompt'])}")
    completions = get_list(row, texts, str, where)
    scores = get_list(row, values, (int, float), where)
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
    scores = [get_finite(score, f"{where}: {values}[{i}]") for i, score in enumerate(scores)]
    tokens = None if slic else _group_tokens(row, where)
    group = Group(str(row["prompt"]), completions, scores, truncated, token_ids=tokens)
    group = _without_prompt(group) if slic else group
    return replace(group, prompt=_with_system(group.prompt, _system(row, where)))


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
    texts = sides_from_row(row, where)
    row = _with_values(row)
    if row.get("tools"):
        raise ValueError(f"{where}: tools are not supported; write them into the prompt")
    scores = [get_optional(row, f"{side}_score", (int, float), where) for side in SIDES]
    marks = [get_optional(row, f"{side}_truncated", bool, where) for side in SIDES]
    tokens = [_tokens(row, f"{side}_token_ids", where) for side in SIDES]
    kwargs = get_optional(row, "chat_template_kwargs", Mapping, where) or {}
    # Arrow fills in None where another row has an argument.
    known = {name: value for name, value in kwargs.items() if value is not None}
    pair = Pair(*texts, *scores, *marks, *tokens)
    return replace(pair, chat_template_kwargs=known or None)


def sides_from_row(row: Mapping[str, Any], where: str) -> tuple[Text | None, Text, Text]:
    """Returns prompt, chosen and rejected side of a row, after checking their messages.

    ``system`` begins the prompt, or both sides where they hold it.
    """
    require_columns(row, SIDES, where)
    prompt, chosen, rejected = (_text(row, name, where) for name in ("prompt", *SIDES))
    if chosen is None or rejected is None:
        raise ValueError(f"{where}: prompt, chosen and rejected must be texts or lists of messages")
    sides = chosen, rejected
    if isinstance(prompt, str) and (messages := [s for s in sides if isinstance(s, list)]):
        if all(any(m["content"] == prompt for m in side) for side in messages):
            prompt = None  # a copy of a message, as in ultrafeedback_binarized
        elif not any(has_role(side[0], PROMPT_ROLES) for side in messages):
            prompt = [{"role": "user", "content": prompt}]
    if len({isinstance(text, str) for text in (prompt, *sides) if text is not None}) > 1:
        raise ValueError(
            f"{where}: texts beside lists of messages; leave out the column prompt if the messages "
            "hold the prompt"
        )
    system = _system(row, where)
    if prompt is None:
        return None, _with_system(chosen, system), _with_system(rejected, system)
    return _with_system(prompt, system), chosen, rejected


def _system(row: Mapping[str, Any], where: str) -> str:
    return str(get_optional(row, "system", str, where) or "")


def _with_system(text: AnyText, system: str) -> AnyText:
    """Returns a prompt after a system message, unless it has one."""
    if not system:
        return text
    if isinstance(text, str):
        blank_line = "" if text.startswith("\n\n") else "\n\n"
        return text if text.startswith(system) else system + blank_line + text
    known = has_role(text[0], SYSTEM_ROLES)
    return text if known else [{"role": "system", "content": system}, *text]


def _with_values(row: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a row with the values that cells of a CSV file write as text."""
    return {
        name: value.parsed() if name in PARSED and isinstance(value, Cell) else value
        for name, value in row.items()
    }


def _text(row: Mapping[str, Any], name: str, where: str) -> Text | None:
    value = row.get(name)
    if isinstance(value, Cell):
        parsed = value.parsed() if value.startswith("[") else None
        messages = isinstance(parsed, list) and parsed and isinstance(parsed[0], Mapping)
        value = parsed if messages else str(value)
        if name == "prompt" and not value:  # CSV has no other way to leave it out
            return None
    if value is None or isinstance(value, str):
        return value
    if not isinstance(value, list) or not value or not all(isinstance(m, Mapping) for m in value):
        raise ValueError(
            f"{where}: prompt, chosen and rejected must be texts or lists of messages, but {name} "
            f"is {type_name(value)}"
        )
    for i, message in enumerate(value):
        _require_message(message, f"{where}: {name}[{i}]")
    return value


def _require_message(message: Mapping[str, Any], where: str) -> None:
    """Raises `ValueError` unless a message has a role and a content, or calls tools."""
    found = ", ".join(name for name, value in message.items() if value is not None) or "nothing"
    if not isinstance(message.get("role"), str):
        raise ValueError(f"{where} has no role; found {found}")
    content = message.get("content")
    if content is None and not message.get("tool_calls"):
        raise ValueError(f"{where} (role {message['role']}) has no content; found {found}")
    if content is not None and not isinstance(content, (str, list)):
        raise ValueError(f"{where}: content must be a text, not {type_name(content)}")


def _tokens(row: Mapping[str, Any], name: str, where: str) -> list[int] | None:
    return None if row.get(name) is None else get_list(row, name, int, where)


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
    """Returns the value of a column, a number as a float, or None; raises if it is another kind."""
    value = row.get(name)
    if value is not None and not _is(value, kind):
        raise ValueError(f"{where}: {name} must be {_KINDS[kind]}, not {type_name(value)}")
    if kind == (int, float) and value is not None:
        return get_finite(value, f"{where}: {name}")
    return value


def get_finite(value: float, where: str) -> float:
    """Returns a number as a float, or raises `ValueError` if it is not finite or too large."""
    if isinstance(value, int) and abs(value) > sys.float_info.max:
        raise ValueError(f"{where} is an integer of {value.bit_length():,} bits, too large")
    if not math.isfinite(value):
        raise ValueError(f"{where} is {value}, not a finite number")
    return float(value)


def get_list(row: Mapping[str, Any], name: str, kind: Any, where: str) -> list[Any]:
    """Returns the list in a column, after checking the kind of its values."""
    values = row[name]
    if not isinstance(values, list):
        raise ValueError(f"{where}: {name} must be a list, not {type_name(values)}")
    for i, value in enumerate(values):
        if not _is(value, kind):
            raise ValueError(f"{where}: {name}[{i}] must be {_KINDS[kind]}, not {type_name(value)}")
    return values


def get_path(value: Any, where: str) -> str:
    """Returns the path of an image, after checking that it is one that a file can have."""
    if not isinstance(value, str) or not value or re.search(r"[\x00-\x1f\x7f]", value):
        found = repr(value)[:60] if isinstance(value, str) else type_name(value)
        raise ValueError(f"{where} must be the path of an image, not {found}")
    return value


def type_name(value: Any) -> str:
    """Returns the name of a value's type, for errors."""
    return "null" if value is None else "str" if isinstance(value, str) else type(value).__name__


_KINDS: dict[Any, str] = {
    str: "a text",
    bool: "true or false",
    int: "an integer",
    (int, float): "a number",
    list: "a list",
    Mapping: "a dictionary",
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
