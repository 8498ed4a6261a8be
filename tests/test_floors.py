"""Floors of the library: imports go down only, and work that many places share exists once."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

#: From the bottom up. A unit (a package or a module of `fdpo`, or `fdpo` itself) imports from lower
#: floors only; units of one floor do not import each other.
FLOORS = [
    {"plugins", "spelling"},
    {"divergences"},
    {"losses"},
    {"fdpo"},
    {"estimators"},
    {"runs"},
    {"scorers", "judges", "cards", "plotting"},
    {"preferences"},
    {"cli"},
    {"llm", "diffusion"},
    {"tasks"},
    {"programs"},
]
HEIGHT: dict[str, int] = {unit: height for height, floor in enumerate(FLOORS) for unit in floor}
UNITS = sorted(HEIGHT, key=lambda unit: (HEIGHT[unit], unit))
ABOVE = {"experiments", "benchmarks", "tests"}  # what the library does not import

#: Functions that exist once: name -> what they do.
ONCE = {
    "make_dataset": "generates, scores, groups and writes",
    "load": "reads a dataset or a model",
    "read_prompts": "reads prompts",
    "fingerprint": "names a model by its weights",
    "sharded": "shares work between processes",
}


@cache
def trees() -> dict[str, tuple[Path, ast.Module]]:
    """Parses every module of the library, by its name."""
    paths = sorted((ROOT / "fdpo").rglob("*.py"))
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in paths]
    modules = [name.removesuffix(".__init__") for name in names]
    return {
        module: (path, ast.parse(path.read_text()))
        for module, path in zip(modules, paths, strict=True)
    }


def imports(module: str) -> Iterator[tuple[str, int]]:
    """Yields the modules that a module imports anywhere, also in functions, with their lines."""
    path, tree = trees()[module]
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(without_lazy_names(tree) if module == "fdpo" else tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1]
            base = ".".join(parents) if node.level else ""
            base = ".".join(filter(None, (base, node.module)))
            for alias in node.names:
                whole = f"{base}.{alias.name}"
                yield (whole if whole in trees() else base), node.lineno


def without_lazy_names(tree: ast.Module) -> ast.Module:
    """Returns the front door's code without the trainers' types: users' first use imports them."""
    body = [node for node in tree.body if not isinstance(node, ast.If)]
    return ast.Module(body, type_ignores=[])


def unit(module: str) -> str:
    return module.split(".")[1] if "." in module else module


def place(module: str, line: int) -> str:
    return f"{trees()[module][0].relative_to(ROOT)}:{line}"


def links() -> list[tuple[str, str, str]]:
    """Returns the importing unit, the imported unit and the place of each import between units."""
    every = [
        (unit(module), unit(imported), f"{place(module, line)} imports {imported}")
        for module in trees()
        for imported, line in imports(module)
        if imported.split(".")[0] == "fdpo" and unit(imported) != unit(module)
    ]
    return list(dict.fromkeys(every))


def test_every_unit_has_a_floor() -> None:
    units = {unit(module) for module in trees()}
    assert units <= HEIGHT.keys(), f"no floor for {', '.join(sorted(units - HEIGHT.keys()))}"


@pytest.mark.parametrize("importer", UNITS)
def test_imports_go_down(importer: str) -> None:
    upwards = [
        text
        for source, target, text in links()
        if source == importer and HEIGHT.get(target, -1) >= HEIGHT[source]
    ]
    assert not upwards, "\n".join(upwards)


def test_units_have_no_cycle() -> None:
    graph: dict[str, set[str]] = defaultdict(set)
    for source, target, _ in links():
        graph[source].add(target)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        cycle = error.args[1]
        pytest.fail(f"a cycle: {' <- '.join(cycle)}")


def test_the_library_imports_nothing_above_it() -> None:
    above = [
        f"{place(module, line)} imports {imported}"
        for module in trees()
        for imported, line in imports(module)
        if imported.split(".")[0] in ABOVE
    ]
    assert not above, "\n".join(above)


@pytest.mark.parametrize("name", ONCE)
def test_shared_functions_exist_once(name: str) -> None:
    places = [
        place(module, node.lineno)
        for module, (_, tree) in trees().items()
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and node.name.strip("_") == name
    ]
    assert len(places) <= 1, f"{name} {ONCE[name]}: {', '.join(places)}"


def test_fingerprints_are_of_one_kind() -> None:
    places = [
        f"{place(module, node.lineno)} {node.name}"
        for module, (path, tree) in trees().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and "fingerprint" in node.name
        if path != ROOT / "fdpo/runs/cache.py"
    ]
    assert not places, "\n".join(places)


def test_only_one_loop_shares_work_between_processes() -> None:
    places = [
        f"{place(module, node.lineno)} [{ast.unparse(node)}]"
        for module, (path, tree) in trees().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Slice) and node.lower is not None and node.step is not None
        if re.search(r"rank|process", ast.unparse(node))
        if path != ROOT / "fdpo/runs/distributed.py"
    ]
    assert not places, "\n".join(places)
