"""Command lines and YAML presets as instances of dataclasses, with errors of one line.

The options of a program are the fields of its dataclasses, those of TRL and transformers included.
A value comes from the command line, else from the YAML file of ``--config``, else from the field's
default. YAML values are converted exactly as on the command line, so ``1e-4`` is a number in both
and ``two`` in neither. A mistake of the user ends the program with status 2 and
``<program>: error: <place, value, allowed values>``.
"""

import copy
import difflib
import json
import os
import re
import sys
from argparse import SUPPRESS, Action, ArgumentError, ArgumentTypeError
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import MISSING
from functools import partial
from pathlib import Path
from types import NoneType
from typing import Any, NoReturn, get_type_hints

import yaml
from transformers import HfArgumentParser

from fdpo.cli.fields import default_value, hint_types, option_fields
from fdpo.cli.help import help_text
from fdpo.cli.mistakes import usage_errors as usage_errors
from fdpo.cli.presets import NODE_NAMES, NULL, yaml_entries
from fdpo.cli.presets import find_preset as find_preset  # its place in version 0.1
from fdpo.cli.values import (
    require_places,
    require_plain,
    require_range,
    require_trackers,
    shortened,
)
from fdpo.runs.secrets import to_environment


def parse(
    types: Sequence[type],
    argv: Sequence[str] | None = None,
    *,
    program: str,
    description: str = "",
    common: Sequence[str] = (),
    aliases: Mapping[str, str] | None = None,
    resets: Mapping[str, Sequence[str]] | None = None,
    presets: str = "",
    check: Callable[..., None] | None = None,
) -> tuple[Any, ...]:
    """Returns one instance of each dataclass, filled from the command line and ``--config``.

    Arguments:
        types: Dataclasses whose fields are the options; no two may share a field's name.
        argv: The arguments, by default those of the process.
        program: The program's name in errors and in ``--help``.
        description: A sentence on the program, for ``--help``.
        common: Fields of TRL's and transformers' dataclasses that ``--help`` shows beside ours;
            ``--help_all`` shows all.
        aliases: Other names of options, as in ``{"model": "model_name_or_path"}``, in YAML too.
        resets: ``{"loss": ("alpha",)}`` makes ``--loss`` on the command line discard the ``alpha``
            of the YAML file, which belongs to the loss of that file.
        presets: The family of programs whose presets ``--config`` finds by name.
        check: Is called with the instances; its ``ValueError`` is a mistake of the user.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    parser = _Parser(types, aliases or {})
    if not {"-h", "--help", "--help_all", "--help-all"}.isdisjoint(argv):
        everything = {"-h", "--help"}.isdisjoint(argv)
        print(help_text(parser, program, description, None if everything else common))
        raise SystemExit(0)
    with usage_errors(program):
        parsed = parser.build(_with_preset(parser, argv, resets or {}, presets))
        if check is not None:
            check(*parsed)
    return parsed


def builder(types: Sequence[type]) -> Callable[[Mapping[str, Any]], tuple[Any, ...]]:
    """Returns a function from values by option name to an instance of each dataclass.

    The values are converted already; other options have their defaults. A mistake is a
    ``ValueError``.
    """
    parser = _Parser(types, {})
    return lambda values: parser.build(copy.deepcopy(dict(values)))


def parse_grid(
    args_type: type,
    types: Sequence[type],
    argv: Sequence[str] | None = None,
    *,
    program: str,
    description: str = "",
    aliases: Mapping[str, str] | None = None,
    resets: Mapping[str, Sequence[str]] | None = None,
    presets: str = "",
) -> tuple[Any, dict[str, list[Any]]]:
    """Parses a program's options, and any number of values for each option of another program.

    ``--beta 0.1 1 --seed 0 --seed 1`` gives two values each; ``--scorers a b --scorers c`` gives
    two lists to an option that is a list. In YAML several values are a list, and several lists a
    list of lists. Values are converted one by one; :func:`builder` checks a combination of them.

    Arguments:
        args_type: The dataclass of the program's options, which have one value each. They hide
            options of the other program with the same name.
        types: The dataclasses of the other program's options.
        argv, program, description, aliases, resets, presets: As for :func:`parse`.

    Returns:
        The instance of ``args_type``, and the values of each option of the other program that was
        given, in the given order, those of the YAML file first.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    parser = _GridParser(args_type, types, aliases or {})
    if not {"-h", "--help", "--help_all", "--help-all"}.isdisjoint(argv):
        print(help_text(parser, program, description, None))
        raise SystemExit(0)
    with usage_errors(program):
        values = _with_preset(parser, argv, resets or {}, presets)
        (instance,) = parser.build(values)
    return instance, {name: values[name] for name in values if name in parser.grid}


def _with_preset(
    parser: "_Parser", argv: Sequence[str], resets: Mapping[str, Sequence[str]], presets: str
) -> dict[str, Any]:
    """Returns the values of the YAML file, overridden by those of the command line.

    Tokens go to the environment, so that no file and no command of another process holds them.
    """
    given = parser.read(argv)
    preset = (
        parser.read_file(find_preset(given.pop("config"), presets)) if "config" in given else {}
    )
    for option, dependent in resets.items():
        if option in given:
            preset = {name: value for name, value in preset.items() if name not in dependent}
    values = {**preset, **given}
    for name, value in values.items():
        try:
            require_plain(value)
        except ValueError as error:
            raise ValueError(f"--{name}: {error}") from None
    return to_environment(values)


def resolved(*parsed: Any) -> dict[str, Any]:
    """Returns the value of every option of the dataclass instances, by name."""
    return {field.name: getattr(one, field.name) for one in parsed for field in option_fields(one)}


class _Parser(HfArgumentParser):
    """transformers' parser without defaults, which raises ``ValueError`` for every mistake."""

    def __init__(self, types: Sequence[type], aliases: Mapping[str, str]) -> None:
        super().__init__(types, allow_abbrev=False, add_help=False, exit_on_error=False)
        # -1e-3 and -inf are values, which argparse took for options before Python 3.14.
        self._negative_number_matcher = re.compile(r"-(\.?\d|inf|nan)")
        self.types = types
        self.aliases = aliases
        self.hints: dict[str, Any] = {}
        for one in types:
            hints = get_type_hints(one)
            self.hints |= {field.name: hints[field.name] for field in option_fields(one)}
        for action in self._actions:
            self._adapt(action)
        for alias, name in aliases.items():
            self._add_alias(alias, self.action(name))
        self.add_argument("--config", default=SUPPRESS)

    def action(self, name: str) -> Action:
        return self._option_string_actions[f"--{name}"]

    def _adapt(self, action: Action) -> None:
        """Leaves defaults to the dataclasses; reads dictionaries as JSON, a bare flag as true."""
        action.default, action.required = SUPPRESS, False
        members = hint_types(self.hints[action.dest])
        if dict in members:
            action.type, action.nargs = partial(_json_object, members=members), None
        elif bool in members and action.nargs is None:
            action.nargs, action.const = "?", True

    def _add_alias(self, alias: str, action: Action) -> None:
        self.add_argument(
            *dict.fromkeys((f"--{alias}", f"--{alias.replace('_', '-')}")),
            dest=action.dest,
            default=SUPPRESS,
            type=action.type,
            nargs=action.nargs,
            choices=action.choices,
            const=action.const,
        )

    def error(self, message: str) -> NoReturn:
        raise ValueError(message)

    def read(self, argv: Sequence[str]) -> dict[str, Any]:
        """Returns the options in ``argv``, converted; the last one of a name counts."""
        try:
            given, unknown = self.parse_known_args(list(argv))
        except ArgumentError as error:
            option = (error.argument_name or "").split("/")[0]
            raise ValueError(f"{option}: {error.message}") from None
        if unknown and unknown[0].startswith("-"):
            name = unknown[0].split("=")[0]
            raise ValueError(f"unknown option {name}{self._suggestion(name, prefix='--')}")
        if unknown:
            raise ValueError(f"unexpected argument {unknown[0]!r}")
        return vars(given)

    def read_file(self, path: str) -> dict[str, Any]:
        """Returns the options in a YAML file, converted; exports its ``env`` mapping."""
        values: dict[str, Any] = {}
        for key, node in yaml_entries(path):
            where = f"{path}, line {node.start_mark.line + 1}"
            name = self.aliases.get(key, key)
            if name in values:
                raise ValueError(f"{where}: {key} is given a second time")
            if name not in self.hints and name != "env":
                raise ValueError(f"{where}: unknown option {key!r}{self._suggestion(key)}")
            try:
                values[name] = self._from_node(name, node)
                require_plain(values[name])
            except (ValueError, yaml.YAMLError) as error:
                raise ValueError(f"{where}: {key}: {error}") from None
        os.environ.update({key: str(value) for key, value in values.pop("env", {}).items()})
        return values

    def build(self, values: Mapping[str, Any]) -> tuple[Any, ...]:
        """Returns the dataclasses' instances; an error of ``__post_init__`` is a ``ValueError``."""
        for one in self.types:
            for field in option_fields(one):
                if field.name in values:
                    require_range(one, field.name, values[field.name])
                    if field.name == "report_to":
                        require_trackers(one, values[field.name])
                elif default_value(field) is MISSING:
                    raise ValueError(f"--{field.name} is needed")
        prefixes = {name for one in self.types for name in getattr(one, "PREFIXES", ())}
        require_places({name: value for name, value in values.items() if name not in prefixes})
        try:
            return tuple(
                one(**{f.name: values[f.name] for f in option_fields(one) if f.name in values})
                for one in self.types
            )
        except (TypeError, ImportError, RuntimeError) as error:
            raise ValueError(str(error)) from error

    def _from_node(self, name: str, node: yaml.Node) -> Any:
        members = hint_types(self.hints.get(name, dict))
        if node.tag == NULL and NoneType in members:
            return None
        if isinstance(node, yaml.MappingNode) and dict in members:
            return yaml.SafeLoader("").construct_document(node)
        if isinstance(node, yaml.SequenceNode) and list in members:
            return [self._item(name, item) for item in node.value]
        if isinstance(node, yaml.ScalarNode) and node.tag != NULL and name in self.hints:
            return self._from_text(name, node.value)
        kind = "nothing" if node.tag == NULL else NODE_NAMES[type(node)]
        expected = "a mapping" if members == {dict} else "a value"
        raise ValueError(f"{expected} is expected, found {kind}")

    def _item(self, name: str, node: yaml.Node) -> Any:
        if not isinstance(node, yaml.ScalarNode):
            raise ValueError(
                f"a list of single values is expected, found {NODE_NAMES[type(node)]} in it"
            )
        value = self._from_text(name, node.value)
        return value[0] if isinstance(value, list) else value

    def _from_text(self, name: str, text: str) -> Any:
        try:
            return getattr(self.parse_known_args([f"--{name}={text}"])[0], name)
        except ArgumentError as error:
            raise ValueError(error.message) from None

    def _suggestion(self, name: str, prefix: str = "") -> str:
        known = [*self.hints, *self.aliases, "config", "help", "help_all"]
        close = difflib.get_close_matches(name.lstrip("-").replace("-", "_"), known)
        names = " or ".join(prefix + one for one in close)
        return f"; did you mean {names}?" if close else "; --help_all lists all options"


class _GridParser(_Parser):
    """Reads one value of each option of ``args_type`` and a list of values of each other option."""

    def __init__(self, args_type: type, types: Sequence[type], aliases: Mapping[str, str]) -> None:
        super().__init__((args_type,), {})
        self.other = _Parser(types, aliases)
        hints = self.other.hints
        self.grid = {name: hint for name, hint in hints.items() if name not in self.hints}
        self.lists = {name for name in self.grid if self.other.action(name).nargs in ("+", "*")}
        self.hints |= self.grid
        self.aliases = aliases
        for name in self.grid:
            names = [name, *(alias for alias, meant in aliases.items() if meant == name)]
            spelled = (f"--{n}" for name in names for n in (name, name.replace("_", "-")))
            self.add_argument(
                *dict.fromkeys(spelled), dest=name, nargs="*", action="append", default=SUPPRESS
            )

    def read(self, argv: Sequence[str]) -> dict[str, Any]:
        return {
            name: self._values(name, value) if name in self.grid else value
            for name, value in super().read(argv).items()
        }

    def _values(self, name: str, occurrences: list[list[str]]) -> list[Any]:
        bare = ["true"] if bool in hint_types(self.grid[name]) else []
        try:
            values = [
                [self.other._from_text(name, word) for word in words or bare]
                for words in occurrences
            ]
        except ValueError as error:
            raise ValueError(f"--{name}: {error}") from None
        if [] in values:
            raise ValueError(f"--{name}: a value is expected")
        # Each word of a list is converted to a list of one.
        return [sum(lists, []) for lists in values] if name in self.lists else sum(values, [])

    def _from_node(self, name: str, node: yaml.Node) -> Any:
        if name not in self.grid:
            return super()._from_node(name, node)
        several = isinstance(node, yaml.SequenceNode) and (
            name not in self.lists or any(isinstance(n, yaml.SequenceNode) for n in node.value)
        )
        return [self._value(name, one) for one in (node.value if several else [node])]

    def _value(self, name: str, node: yaml.Node) -> Any:
        is_list = isinstance(node, yaml.SequenceNode)
        if node.tag == NULL or (is_list and (name not in self.lists or not node.value)):
            kind = "nothing" if node.tag == NULL else NODE_NAMES[type(node)]
            raise ValueError(f"a value, or a list of them, is expected, found {kind}")
        return self.other._from_node(name, node)


def _json_object(text: str, members: set[Any]) -> dict[str, Any] | str | None:
    if NoneType in members and text.lower() in ("none", "null"):
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if isinstance(value, dict):
        return value
    with suppress(OSError, ValueError):  # such as a text that is too long for a path
        if str in members and Path(text).is_file():  # TRL's dictionaries may be named by a file
            return text
    raise ArgumentTypeError(
        f"""a JSON object like '{{"t": 0.3}}' is expected, found {shortened(repr(text))}"""
    )
