"""Files stay short, and docstrings say a thing instead of asking for it."""

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
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            if text := ast.get_docstring(node):
                yield getattr(node, "name", "module"), text


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_are_short_and_docstrings_are_no_questions(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= LONGEST
    questions = [
        name for name, text in docstrings(path) if re.match(r"(What|How|Whether|Which)\b", text)
    ]
    assert questions == []
