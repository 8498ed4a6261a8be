"""Checks of the columns of a row, whose errors name file and row."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any


def optional(row: Mapping[str, Any], name: str, kind: Any, where: str) -> Any:
    """Returns the value of a column of this kind, or None where there is none."""
    value = row.get(name)
    if value is not None and not _is(value, kind):
        raise ValueError(f"{where}: {name} must be {_NAMES[kind]}, not {type_of(value)}")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{where}: {name} is {value}, not a finite number")
    return value


def require(row: Any, names: Sequence[str], where: str) -> None:
    """Checks that a row has these columns; ``where`` names file and row in the error."""
    if not isinstance(row, Mapping):
        raise ValueError(f"{where}: must hold named columns, not {type_of(row)}")
    missing = [name for name in names if name not in row]
    if missing:
        raise ValueError(
            f"{where}: no column {', '.join(missing)}; found {', '.join(row) or 'none'}"
        )


_NAMES: dict[Any, str] = {str: "a text", bool: "true or false", (int, float): "a number"}


def list_of(row: Mapping[str, Any], name: str, kind: Any, where: str) -> list[Any]:
    """Returns a column that holds a list of values of one kind."""
    values = row[name]
    if not isinstance(values, list):
        raise ValueError(f"{where}: {name} must be a list, not {type_of(values)}")
    for i, value in enumerate(values):
        if not _is(value, kind):
            raise ValueError(f"{where}: {name}[{i}] must be {_NAMES[kind]}, not {type_of(value)}")
    return values


def _is(value: Any, kind: Any) -> bool:
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))


def type_of(value: Any) -> str:
    """The name of a value's type, as errors say it."""
    return "null" if value is None else type(value).__name__
