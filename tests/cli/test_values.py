"""Values that no run could use or record: one line, before anything is created."""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from fdpo.cli import arguments
from fdpo.cli.values import RANGES, Range, require_range
from fdpo.runs.folder import require_file, require_folder


@dataclass
class Options:
    """Options of the tests."""

    loss_args: dict[str, Any] | str | None = None
    names: list[str] = field(default_factory=list)
    beta: float = 0.1


LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
PRESETS = {
    "deep": ("loss_args: " + "{a: " * 40 + "1" + "}" * 40, "line 1: loss_args: nested more than"),
    "deeper": ("loss_args: " + "[" * 9999, "nested more than 32 deep"),
    "deep keys": ("? " * 5000 + "a", "nested more than 32 deep"),
    "a key that is a list": ("? [a, b]\n: 1", "line 1: an option is expected, found a list"),
    "aliases": (
        "loss_args:\n" + "".join(f"  {line}\n" for line in LAUGHS.splitlines()),
        "line 1: loss_args: holds more than 100,000 values",
    ),
    "itself": ("loss_args: &a {a: *a}", "line 1: loss_args: nested more than"),
    "python": ("loss_args: !!python/object/apply:os.system [x]", "the tag .* is not read"),
    "a tag": ("beta: 1\nnames: [!mine x]", "line 2: names: the tag !mine is not read"),
    "half": ('beta: 1\nnames: ["\\ud800"]', r"line 2: names: holds U\+D800, .* half a character"),
    "nul": ('names: ["a\\0b"]', "line 1: names: holds a NUL"),
    "huge": ("loss_args: {t: 99999999999999999999}", "line 1: loss_args: .* is too large"),
    "not a number": ("beta: nan", "--beta must be a finite number above 0, got nan"),
}


@pytest.mark.parametrize("name", PRESETS)
def test_hostile_presets(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text, message = PRESETS[name]
    monkeypatch.chdir(tmp_path)
    Path("a.yaml").write_text(text, encoding="utf-8")
    started = time.process_time()
    with pytest.raises(SystemExit) as exit_:
        arguments.parse([Options], ["--config", "a.yaml"], program="train.py")
    [line] = capsys.readouterr().err.splitlines()
    assert exit_.value.code == 2 and time.process_time() - started < 5
    with pytest.raises(ValueError, match=message):
        raise ValueError(line)


def test_plain_aliases_and_long_mappings_are_read(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("loss_args: {a: &x [1, 2], b: *x}", encoding="utf-8")
    (options,) = arguments.parse([Options], ["--config", str(file)], program="train.py")
    assert options.loss_args == {"a": [1, 2], "b": [1, 2]}
    long = {f"name{i}": i for i in range(200)}  # too long for the name of a file
    text = json.dumps(long)
    (options,) = arguments.parse([Options], ["--loss_args", text], program="train.py")
    assert options.loss_args == long


def test_ranges() -> None:
    for allowed in RANGES.values():
        assert float("nan") not in allowed and -float("inf") not in allowed
    assert float("inf") in RANGES["tail"] and float("inf") not in RANGES["beta"]
    assert 2**32 - 1 in RANGES["seed"] and 2**32 not in RANGES["seed"]
    assert -1 in Range(1, also=-1) and 0 not in Range(1, also=-1)
    with pytest.raises(ValueError, match="--batch_size must be at most 2,147,483,647, got 2147"):
        require_range(Options, "batch_size", 2**31)


def test_places_that_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "locked").mkdir(mode=0o500)
    wrong: list[str | Path] = [
        "",
        "a\0b",
        tmp_path / "file",
        tmp_path / "file/in/it",
        tmp_path / "new" / ("a" * 300),
    ]
    if os.access(tmp_path / "locked", os.W_OK):  # as root, who may write anywhere
        (tmp_path / "locked").rmdir()
    else:
        wrong.append(tmp_path / "locked/run")
    before = sorted(tmp_path.iterdir())
    for path in wrong:
        with pytest.raises(ValueError, match="--output_dir"):
            require_folder(path, "output_dir")
    with pytest.raises(ValueError, match="--output .* is a folder"):
        require_file(tmp_path, "output")
    require_folder(tmp_path / "a/b/c", "output_dir")
    require_file(tmp_path / "file", "output")
    assert sorted(tmp_path.iterdir()) == before
