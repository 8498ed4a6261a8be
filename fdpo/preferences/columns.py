"""Columns of preference data under other names, and those that nothing reads."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fdpo.runs.notes import note

ALIASES: dict[str, tuple[str, ...]] = {
    "prompt": ("question", "instruction", "query", "input", "user_prompt", "user_input"),
    "system": ("system_prompt",),
    "chosen": ("chosen_response", "response_chosen", "preferred", "accepted"),
    "rejected": ("rejected_response", "response_rejected", "dispreferred"),
    "chosen_score": ("score_chosen", "chosen_rating", "chosen-rating"),
    "rejected_score": ("score_rejected", "rejected_rating", "rejected-rating"),
}
"""Other names of columns, as data sets of the hub have them; the first that holds values counts."""

PARSED = {
    "chosen_score", "rejected_score", "chosen_truncated", "rejected_truncated", "chosen_token_ids",
    "rejected_token_ids", "completions", "scores", "truncated", "token_ids", "answers", "rm_scores",
    "chat_template_kwargs", "tools",
}  # fmt: skip
"""Columns that hold no text, also where a CSV file writes their values as text."""

READ = {"prompt", "system", "chosen", "rejected", "split"} | PARSED
"""Columns that are read, and ``split``, which the groups of a data set of ours have."""


def canonical_names(columns: Iterable[str]) -> set[str]:
    """Returns the names of columns, those under another name also by the name they stand for.

    Example:
        >>> sorted(canonical_names(["question", "chosen"]))
        ['chosen', 'prompt', 'question']
    """
    names = set(columns)
    return names | {name for name, aliases in ALIASES.items() if names & set(aliases)}


def rename_columns(rows: Sequence[Any], source: str) -> Sequence[Any]:
    """Returns rows whose columns have the names that are read, and notes those that had others.

    ``input`` beside ``instruction`` is the end of the prompt, after an empty line.

    Arguments:
        rows: The rows; those that hold no named columns stay as they are.
        source: The name of the rows in the note.
    """
    names = find_aliases(rows)
    if not names:
        return rows
    described = [f"{alias} as {name}" for name, alias in names.items()]
    note(f"{source}: columns are read under other names: {', '.join(described)}")
    return [renamed(row, names) if isinstance(row, Mapping) else row for row in rows]


def find_aliases(rows: Iterable[Any]) -> dict[str, str]:
    """Returns the names that rows hold no values under, each with the other name that they use."""
    filled = {
        name
        for row in rows
        if isinstance(row, Mapping)
        for name, value in row.items()
        if value is not None and value != ""
    }
    names = {}
    for name, aliases in ALIASES.items():
        used = [alias for alias in aliases if alias in filled]
        if used and name not in filled:
            names[name] = used[0]
    if names.get("prompt") == "instruction" and "input" in filled:
        names["prompt"] = "instruction + input"
    return names


def renamed(row: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """Returns a row with its columns renamed as :func:`find_aliases` says."""
    result = dict(row)
    for name, alias in names.items():
        values = [result.pop(part, None) for part in alias.split(" + ")]
        parts = [value for value in values if value is not None and value != ""]
        result[name] = "\n\n".join(parts) if len(parts) > 1 else next(iter(parts), None)
    return result


def unread_texts(rows: Sequence[Mapping[str, Any]]) -> dict[str, bool]:
    """Returns the columns of texts or messages that nothing reads.

    Copies of the prompt or of a side are left out.

    Returns:
        The columns, each with whether a value of it can be a prompt: messages, or several words.
    """
    unread: dict[str, bool] = {}
    for row in rows:
        known = [row.get(name) for name in ("prompt", "chosen", "rejected")]
        for name, value in row.items():
            if name not in READ and _is_text(value) and value not in known:
                wordy = not isinstance(value, str) or len(value.split()) > 1
                unread[name] = unread.get(name, False) or wordy
    return unread


def _is_text(value: Any) -> bool:
    if isinstance(value, list):
        return bool(value) and all(
            isinstance(item, Mapping) and {"role", "from"} & set(item) for item in value
        )
    return isinstance(value, str) and bool(value)
