"""A lock has one holder, and ends with the last process that has its descriptor."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from fdpo.runs.distributed import run_first
from fdpo.runs.locks import at_work_in, hold, is_held


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


def test_a_program_ends_with_the_one_that_started_it(tmp_path: Path) -> None:
    """The starter ends by a signal that it cannot handle, or by one that it handles."""
    started = [start_parent(tmp_path / str(number)) for number in (signal.SIGKILL, signal.SIGINT)]
    for parent, folder in started:
        wait_for((folder / "pid").exists)
        os.kill(parent, int(folder.name))
        os.waitpid(parent, 0)
        child = int((folder / "pid").read_text())
        wait_for(partial(has_ended, child))


def start_parent(folder: Path) -> tuple[int, Path]:
    """Forks a process that starts a program, which writes its number to a file and sleeps."""
    folder.mkdir()
    (folder / "child.py").write_text(f"""if True:
        import os, pathlib, time
        from fdpo.runs.distributed import end_with_parent
        from fdpo.runs.files import write_text
        end_with_parent()
        write_text({str(folder / "pid")!r}, str(os.getpid()))
        time.sleep(60)
    """)
    parent = os.fork()
    if not parent:
        try:
            run_first([sys.executable, str(folder / "child.py")], folder / "data/README.md")
        finally:
            os._exit(1)
    return parent, folder


def has_ended(pid: int) -> bool:
    """Returns whether a process is gone, or nobody has read its status yet."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return True
    return stat.rpartition(")")[2].split()[0] == "Z"


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_one_program_at_a_time_is_at_work_in_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "run"
    with at_work_in(folder):
        with pytest.raises(ValueError, match="another program is at work in .*run"):
            with at_work_in(folder, patience=0.2):
                pass
        worker = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    with at_work_in(folder, patience=0):
        worker.communicate(b"")
    assert not list(folder.iterdir())


def test_where_folders_have_no_locks_nobody_is_kept_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(9, "Bad file descriptor")

    monkeypatch.setattr("fcntl.flock", refuse)
    with at_work_in(tmp_path), at_work_in(tmp_path):
        pass


def test_a_program_waits_for_the_workers_of_a_killed_one(tmp_path: Path) -> None:
    program = os.fork()
    if not program:
        with at_work_in(tmp_path):
            if not os.fork():
                time.sleep(1)
                os._exit(0)
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(program, 0)
    with pytest.raises(ValueError, match="at work"):
        with at_work_in(tmp_path, patience=0):
            pass
    with at_work_in(tmp_path):
        pass
