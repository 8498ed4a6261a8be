"""YAML files of options: presets by name, and the entries of a file with their lines.

A file is read as plain values. Tags of other kinds, values that hold themselves, aliases that
expand to more than :data:`MOST_VALUES` values and more than :data:`DEEPEST` levels are refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import yaml

from fdpo.cli.values import DEEPEST

CONFIGS = Path(__file__).resolve().parents[1] / "programs/configs"
"""The folder of the presets, one folder for each family of programs."""
MOST_VALUES = 100_000
NULL = "tag:yaml.org,2002:null"
PLAIN = "tag:yaml.org,2002:"
NODE_NAMES = {
    yaml.MappingNode: "a mapping",
    yaml.SequenceNode: "a list",
    yaml.ScalarNode: "a value",
}


def find_preset(name: str, family: str) -> str:
    """Returns the file of a preset: a path, or the name of a preset of a family of programs.

    A preset's path in a checkout of version 0.1, ``FAMILY/configs/NAME.yaml``, is its name too.

    Arguments:
        name: The value of ``--config``.
        family: The folder of the family in :data:`CONFIGS`.
    """
    if Path(name).is_file():
        return name
    *folders, last = Path(name).parts
    preset = CONFIGS / family / f"{last.removesuffix('.yaml')}.yaml"
    if family and (not folders or folders[-2:] == [family, "configs"]) and preset.is_file():
        return str(preset)
    known = ", ".join(sorted(path.stem for path in (CONFIGS / family).glob("*.yaml")))
    choices = f"; presets are {known}" if family and known else ""
    raise ValueError(f"--config: there is no file {name}{choices}")


def yaml_entries(path: str) -> list[tuple[str, yaml.Node]]:
    """Returns the keys and value nodes of a YAML file that holds one mapping."""
    try:
        root = yaml.compose(Path(path).read_text(encoding="utf-8"), yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ValueError(f"{path}, line {line}: not valid YAML: {error.problem}") from None
    except RecursionError:
        raise ValueError(f"{path}: nested more than {DEEPEST} deep") from None
    except (ValueError, yaml.YAMLError) as error:
        raise ValueError(f"{path}: not a text file of YAML: {error}") from None
    if not isinstance(root, yaml.MappingNode):
        kind = "nothing" if root is None else NODE_NAMES[type(root)]
        raise ValueError(f"{path}: lines like 'beta: 0.1' are expected, found {kind}")
    for key, value in root.value:
        where = f"{path}, line {key.start_mark.line + 1}"
        if not isinstance(key, yaml.ScalarNode):
            raise ValueError(f"{where}: an option is expected, found {NODE_NAMES[type(key)]}")
        _require_plain_nodes(value, f"{where}: {key.value}")
    return [(str(key.value), value) for key, value in root.value]


def _require_plain_nodes(root: yaml.Node, where: str) -> None:
    """Raises ``ValueError`` for a tag that is no plain value's, or for too many values."""
    count = 0
    left: list[tuple[yaml.Node, int]] = [(root, 1)]
    while left:  # each place of an aliased node counts
        node, depth = left.pop()
        count += 1
        if count > MOST_VALUES:
            raise ValueError(f"{where}: holds more than {MOST_VALUES:,} values with its aliases")
        if depth > DEEPEST:
            raise ValueError(f"{where}: nested more than {DEEPEST} deep")
        kind = node.tag.removeprefix(PLAIN)
        if kind == node.tag or "/" in kind:
            raise ValueError(f"{where}: the tag {node.tag} is not read, only plain values are")
        left += ((child, depth + 1) for child in _children(node))


def _children(node: yaml.Node) -> Iterator[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        yield from (child for pair in node.value for child in pair)
    elif isinstance(node, yaml.SequenceNode):
        yield from node.value
