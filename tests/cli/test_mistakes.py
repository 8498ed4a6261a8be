"""Mistakes of the user and missing packages are one line; bugs keep their traceback."""

from __future__ import annotations

from pathlib import Path

import pytest

from fdpo.cli.mistakes import usage_errors
from fdpo.cli.program import Run


def line_of(error: Exception, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as exit_, usage_errors("train.py"):
        raise error
    assert exit_.value.code == 2
    [line] = capsys.readouterr().err.splitlines()
    return line.removeprefix("train.py: error: ")


def test_mistakes_of_the_user(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert line_of(ValueError("first\n  second"), capsys) == "first second"
    hostile = ValueError("no column \x1b[2J\ud800\r\n\0\u202etext")
    assert line_of(hostile, capsys) == r"no column \x1b[2J\ud800 \x00\u202etext"
    absent = FileNotFoundError(2, "No such file or directory", str(tmp_path / "absent"))
    assert line_of(absent, capsys) == f"{tmp_path / 'absent'}: No such file or directory"
    for bug in (KeyError("a bug keeps its traceback"), RuntimeError("so does this one")):
        with pytest.raises(type(bug)), usage_errors("train.py"):
            raise bug


MISSING = {
    "No module named 'liger_kernel': pip install liger-kernel": ModuleNotFoundError(
        "No module named 'liger_kernel'", name="liger_kernel"
    ),
    "No module named 'sklearn.datasets': pip install scikit-learn": ModuleNotFoundError(
        "No module named 'sklearn.datasets'", name="sklearn.datasets"
    ),
    "FlashAttention2 has been toggled on, but cannot be used: pip install flash-attn": ImportError(
        "FlashAttention2 has been toggled on, but cannot be used."
    ),
    "4-bit requires bitsandbytes: `pip install -U bitsandbytes`": ImportError(
        "4-bit requires\nbitsandbytes: `pip install -U bitsandbytes`"
    ),
    "MLflowCallback requires mlflow. Run `pip install mlflow`.": RuntimeError(
        "MLflowCallback requires mlflow. Run `pip install mlflow`."
    ),
}


@pytest.mark.parametrize("expected", MISSING)
def test_a_missing_package_is_named(capsys: pytest.CaptureFixture[str], expected: str) -> None:
    assert line_of(MISSING[expected], capsys) == expected


@pytest.mark.parametrize("started", [False, True])
def test_a_run_names_a_missing_package(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, started: bool
) -> None:
    with pytest.raises(SystemExit) as exit_, Run("train.py", tmp_path, {}) as run:
        if started:  # such as an optimizer, which the trainer makes when training begins
            run.start()
        raise ImportError("install `bitsandbytes`: `pip install -U bitsandbytes`")
    assert exit_.value.code == 2
    assert "`pip install -U bitsandbytes`" in capsys.readouterr().err
