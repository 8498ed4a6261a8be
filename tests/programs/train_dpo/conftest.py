"""The training program in a temporary folder, and its refusals."""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., None]


@pytest.fixture
def train(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs train.py in a temporary folder with the tiny model and the given options."""
    program = importlib.import_module("fdpo.programs.train_dpo.train")
    monkeypatch.chdir(tmp_path)

    def run(*options: object) -> None:
        argv = ["train.py", "--model", str(tiny_model), "--scorers", "vader", "--use_cpu"]
        monkeypatch.setattr("sys.argv", [*argv, *map(str, options)])
        program.main()

    return run


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def refused(
    program: Run, capsys: pytest.CaptureFixture[str], message: str, *options: object
) -> None:
    """Asserts that a program ends with status 2 and one line that matches a message."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        program(*options)
    lines = [line for line in capsys.readouterr().err.splitlines() if ": error: " in line]
    assert stop.value.code == 2
    assert len(lines) == 1 and re.search(message, lines[0]), lines
