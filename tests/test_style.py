"""Files stay short, docstrings say a thing, text has an encoding, and nothing is unpickled."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = "fdpo train_dpo dataset diffusion benchmarks experiments tests".split()
FILES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
LONGEST = 400  # lines


def docstrings(path: Path) -> Iterator[tuple[str, str]]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            if text := ast.get_docstring(node):
                yield getattr(node, "name", "module"), text


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_are_short_and_docstrings_are_no_questions(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= LONGEST
    questions = [
        name for name, text in docstrings(path) if re.match(r"(What|How|Whether|Which)\b", text)
    ]
    assert questions == []


PRODUCT = [path for path in FILES if ROOT / "tests" not in path.parents]
OPENERS = {"open", "read_text", "write_text", "run", "Popen", "check_output"}
NOT_TEXT = {"os", "Image", "webbrowser", "PIL", "Run", "ReferenceCache"}
OWN = {"runs", "files"}  # whose write_text sets the encoding


def faults(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yields the lines that open text without an encoding, or unpickle."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
            if {name.partition(".")[0] for name in names} & {"pickle", "cloudpickle", "dill"}:
                yield node.lineno, "imports pickle"
        elif isinstance(node, ast.Call):
            if fault := call_fault(node):
                yield node.lineno, fault


def call_fault(node: ast.Call) -> str | None:
    called = ast.unparse(node.func)
    owner, _, name = called.rpartition(".")
    options = {word.arg: word.value for word in node.keywords}
    if called == "torch.load":
        only = options.get("weights_only")
        safe = isinstance(only, ast.Constant) and only.value is True
        return None if safe else "torch.load without weights_only=True"
    texts = [a.value for a in [*node.args, *options.values()] if isinstance(a, ast.Constant)]
    is_binary = any(isinstance(t, str) and re.fullmatch(r"[rwax]\+?b\+?", t) for t in texts)
    if name not in OPENERS or is_binary or "encoding" in options or owner in NOT_TEXT:
        return None
    if name in ("run", "Popen", "check_output"):
        is_text = {"text", "universal_newlines"} & options.keys() and owner == "subprocess"
        return f"{called} of text without encoding" if is_text else None
    if name == "write_text" and (not owner or owner in OWN):
        return None
    is_gzip = owner == "gzip" and not any(isinstance(t, str) and "t" in t for t in texts)
    return None if is_gzip or len(node.args) > 2 else f"{called} without encoding"


@pytest.mark.parametrize("path", PRODUCT, ids=lambda path: str(path.relative_to(ROOT)))
def test_text_has_an_encoding_and_nothing_is_unpickled(path: Path) -> None:
    assert list(faults(ast.parse(path.read_text(encoding="utf-8")))) == []


@pytest.mark.parametrize(
    "line",
    ["open(p)", "open(p, 'a')", "p.open()", "p.read_text()", "p.write_text(t)", "io.open(p, 'w')",
     "gzip.open(p, 'rt')", "subprocess.run(c, text=True)", "torch.load(p)", "import pickle",
     "from pickle import loads", "torch.load(p, weights_only=False)"],
)  # fmt: skip
def test_each_fault_is_seen(line: str) -> None:
    good = ["open(p, 'rb')", "p.open('wb')", "p.read_text(encoding='utf-8')", "gzip.open(p)"]
    assert list(faults(ast.parse(line)))
    assert not list(faults(ast.parse("\n".join([*good, "torch.load(p, weights_only=True)"]))))
