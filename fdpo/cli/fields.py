"""Fields of dataclasses as options: their defaults and the types in their hints."""

from __future__ import annotations

from dataclasses import MISSING, Field, fields
from types import UnionType
from typing import Any, Union, get_args, get_origin


def option_fields(dataclass: Any) -> list[Field[Any]]:
    """Returns the fields that are options, of a dataclass or an instance."""
    return [field for field in fields(dataclass) if field.init]


def default_value(field: Field[Any]) -> Any:
    """Returns the default of a field, ``MISSING`` where it has none."""
    return field.default if field.default_factory is MISSING else field.default_factory()


def hint_types(hint: Any) -> set[Any]:
    """Returns the types in a hint: {list, NoneType} of ``list[str] | None``."""
    parts = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    return {get_origin(part) or part for part in parts}
