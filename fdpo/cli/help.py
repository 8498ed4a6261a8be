"""The text of ``--help``: a program's options in sections, on two screens at most."""

import json
import re
import shutil
import textwrap
from collections.abc import Sequence
from dataclasses import MISSING, Field
from enum import Enum
from typing import Any

from fdpo.cli.fields import default_value, hint_types, option_fields

_ECOSYSTEM = ("trl", "transformers", "diffusers")


def help_text(parser: Any, program: str, description: str, common: Sequence[str] | None) -> str:
    """Returns the text of ``--help``: our options and the ``common`` ones, or with ``None`` all."""
    width = min(shutil.get_terminal_size((100, 24)).columns, 120)
    lines = [f"usage: {program} [--config FILE.yaml] [--option value ...]"]
    lines += ["", *textwrap.wrap(description, width)] if description else []
    every = {field.name: field for one in parser.types for field in option_fields(one)}
    for one in parser.types:
        shown = [f for f in option_fields(one) if common is None or not _is_foreign(f.name, one)]
        lines += _section(parser, _title(one), shown, width, brief=False)
    if common is not None:
        lines += _section(parser, "Common options", [every[n] for n in common], width, brief=True)
        lines += [
            "",
            f"--help_all shows all {len(every)} options. What --config FILE.yaml sets, the",
        ]
        lines += ["command line overrides. A switch is --name or --name false."]
    return "\n".join(lines)


def _section(
    parser: Any, title: str, shown: Sequence[Field[Any]], width: int, *, brief: bool
) -> list[str]:
    lines = [line for field in shown for line in _entry(parser, field, width, brief)]
    return ["", f"{title}:", *lines] if lines else []


def _entry(parser: Any, field: Field[Any], width: int, brief: bool) -> list[str]:
    """Returns ``  --name KIND    help (default)``; in brief only the first sentence."""
    # a short form, such as --dataset of --dataset_name, stands for the name; an old name does not
    forms = (alias for alias, name in parser.aliases.items() if name == field.name)
    short = next((alias for alias in forms if field.name.startswith(alias)), field.name)
    head = f"  --{short} {_kind(parser, field)}".ljust(36) + " "
    text = str(field.metadata.get("help", "")).replace("%%", "%")
    if brief:
        text = re.split(r"(?<=[^.]\.)\s", text)[0].rstrip(".")
    entry = textwrap.TextWrapper(width, initial_indent=head, subsequent_indent=" " * 37)
    entry.max_lines, entry.placeholder = (2 if brief else None), "…"
    return entry.wrap(f"{text} {_describe_default(field)}".strip()) or [head]


def _kind(parser: Any, field: Field[Any]) -> str:
    members = hint_types(parser.hints[field.name])
    choices = parser.action(field.name).choices
    listed = "{" + ",".join(map(str, choices or ())) + "}"
    if choices is not None and len(listed) <= 30:
        return listed
    names = {bool: "", dict: "JSON", list: "...", int: "INT", float: "NUMBER"}
    return next(
        (kind for one, kind in names.items() if one in members), "NAME" if choices else "TEXT"
    )


def _describe_default(field: Field[Any]) -> str:
    value = default_value(field)
    if value is MISSING:
        return "(needed)"
    if value in (None, "", []):
        return ""
    if isinstance(value, list):
        return f"({' '.join(map(str, value))})"
    text = value.value if isinstance(value, Enum) else json.dumps(value, default=str).strip('"')
    return f"({text})"


def _title(one: type) -> str:
    """Returns the first line of a dataclass's docstring; its name where it has none."""
    first = (one.__doc__ or "").strip().split("\n")[0].rstrip(".")
    return one.__name__ if not first or first.startswith(f"{one.__name__}(") else first


def _is_foreign(name: str, one: type) -> bool:
    return any(
        base.__module__.split(".")[0] in _ECOSYSTEM
        and name in getattr(base, "__dataclass_fields__", ())
        for base in one.__mro__
    )
