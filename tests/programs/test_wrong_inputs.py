"""Every wrong input to every program is one line that names the option, before anything is made."""

from __future__ import annotations

import os
import random
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest

from fdpo.cli import arguments
from fdpo.cli import sweep as sweeps
from fdpo.cli.values import number_range
from tests.programs.wrong_inputs import NEEDED, Program, WrongInput, draw, programs

SEED = int(os.environ.get("FDPO_TEST_SEED", 0))
DRAWN = 25  # inputs of a program in the quick test
PROGRAMS = programs()


class Accepted(Exception):
    """The options are right: work would start now."""


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty working folder, which has to stay empty; no program gets past its options."""
    folder = tmp_path / "here"
    folder.mkdir()
    (tmp_path / "file").touch()
    monkeypatch.chdir(folder)
    parse = arguments.parse

    def parse_only(*args: Any, **options: Any) -> NoReturn:
        parse(*args, **options)
        raise Accepted

    def accept(*_: Any) -> NoReturn:
        raise Accepted

    monkeypatch.setattr(arguments, "parse", parse_only)
    monkeypatch.setattr(sweeps, "migrate", accept)
    yield folder
    assert list(folder.iterdir()) == []


def places(folder: Path) -> list[str]:
    """Returns paths that cannot be written to."""
    file = folder.parent / "file"
    return [str(file / "in" / "it"), "a" * 300, "deep/" + "b" * 300, ""]


def complaint(
    program: Program, words: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> str:
    """Returns what is wrong about the answer to a wrong input, "" if nothing is."""
    monkeypatch.setattr(program.module, "quiet_libraries", lambda: None)
    monkeypatch.setattr(sys, "argv", ["program", *NEEDED.get(program.name, ()), *words])
    status: Any = None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # programs print those of libraries as lines of their own
        try:
            program.module.main()
        except SystemExit as stop:
            status = stop.code
        except Accepted:
            return "accepted"
        except BaseException as error:
            return f"raises {type(error).__name__}: {error}"
    out, err = capsys.readouterr()
    if status != 2 or out or err.count("\n") != 1:
        return f"status {status}, {out + err!r:.300}"
    return err


def check(
    program: Program,
    inputs: list[WrongInput],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    faults = []
    for one in inputs:
        answer = complaint(program, list(one.words), capsys, monkeypatch)
        if ": error: " not in answer or one.option not in answer:
            faults.append(f"{one}: {answer.strip():.200}")
    assert not faults, f"{len(faults)} of {len(inputs)}:\n" + "\n".join(faults)


def test_every_number_has_a_range() -> None:
    """A new option has to say which numbers it takes, in the table or in its dataclass."""
    options = [(program.name, *option) for program in PROGRAMS for option in program.numbers()]
    missing = {f"{where}: {name}" for where, one, name in options if not number_range(one, name)}
    assert not missing and len(options) > 300


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.name)
def test_some_wrong_inputs(
    program: Program,
    empty: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    inputs = draw(program, SEED, places(empty))
    excluded = [one for one in inputs if len(one.words) > 1]
    chosen = excluded + random.Random(SEED).sample(inputs, min(DRAWN, len(inputs)))
    check(program, chosen, capsys, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.name)
def test_all_wrong_inputs(
    program: Program,
    empty: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    check(program, draw(program, SEED, places(empty)), capsys, monkeypatch)
