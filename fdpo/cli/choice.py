"""An option that decides which other options a program has, read before all others."""

from __future__ import annotations

import sys
from argparse import ArgumentError, ArgumentParser
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from fdpo.cli.presets import find_preset


def choose(
    option: str, choices: Sequence[str], argv: Sequence[str] | None = None, *, presets: str = ""
) -> str:
    """Returns the value of an option on the command line, else in the file of ``--config``.

    Mistakes are left to :func:`fdpo.cli.arguments.parse`: a value that is missing or not among the
    choices means the first choice.

    Arguments:
        option: The name of the option.
        choices: The values of the option, the default first.
        argv: The arguments, by default those of the process.
        presets: The family of programs whose presets ``--config`` finds by name.

    Example:
        >>> choose("modality", ("text", "image"), ["--seed", "1", "--modality", "image"])
        'image'
    """
    parser = ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument(f"--{option}", dest="value")
    parser.add_argument("--config")
    try:
        given, _ = parser.parse_known_args(sys.argv[1:] if argv is None else list(argv))
    except ArgumentError:
        return choices[0]
    value: Any = given.value or _preset(given.config, presets).get(option)
    return value if value in choices else choices[0]


def _preset(name: str | None, presets: str) -> dict[str, Any]:
    """Returns the values of a preset as texts, nothing where it cannot be read."""
    if name is None:
        return {}
    try:
        text = Path(find_preset(name, presets)).read_text(encoding="utf-8")
        values = yaml.load(text, yaml.BaseLoader)
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return {}
    return values if isinstance(values, dict) else {}
