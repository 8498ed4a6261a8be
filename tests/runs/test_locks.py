"""A lock has one holder, and ends with the last process that has its descriptor."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fdpo.runs.distributed import run_first
from fdpo.runs.locks import hold, is_held


def test_a_lock_has_one_holder(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    held = hold(path)
    assert is_held(path)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(hold, path)
        time.sleep(0.1)
        assert not waiting.done()
        os.close(held)
        held = waiting.result()
    assert is_held(path)
    os.close(held)
    assert not is_held(path)


def test_a_child_keeps_the_lock_of_a_parent_that_is_gone(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    held = hold(path)
    child = subprocess.Popen(
        [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=[held]
    )
    os.close(held)
    assert is_held(path)
    child.communicate(b"\n")
    assert not is_held(path)


def test_programs_started_at_once_write_a_file_once(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "data" / "README.md"
    code = f"""if True:
        import pathlib, time
        folder = pathlib.Path({str(target.parent)!r})
        print("written")
        folder.mkdir()
        time.sleep(0.3)
        (folder / "README.md").touch()
    """
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda _: run_first([sys.executable, "-c", code], target), range(3)))
    assert capfd.readouterr().out.splitlines().count("written") == 1 and target.exists()
