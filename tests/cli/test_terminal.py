"""A program outlasts its terminal and its pipe, and Ctrl-C is one line with status 130."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fdpo.runs.interrupts import Interrupts

ROOT = Path(__file__).parents[2]
PROGRAM = """
import importlib.util, os, signal, sys, time
spec = importlib.util.spec_from_file_location("terminal", sys.argv[1])
terminal = importlib.util.module_from_spec(spec)
spec.loader.exec_module(terminal)
terminal.outlast_terminal()
terminal.exit_on_interrupt()
"""
TERMINAL = str(ROOT / "fdpo/cli/terminal.py")  # a module of its own starts in no time


def run(code: str, mark: Path, **streams: Any) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", PROGRAM + code, TERMINAL, str(mark)]
    return subprocess.Popen(command, start_new_session=True, preexec_fn=hear_interrupts, **streams)


def hear_interrupts() -> None:
    """Undoes what a shell does for programs in its background."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


WORK = """
for i in range(5000):
    print("a line", i, flush=i % 1000 == 0)
    print("a warning", i, file=sys.stderr)
child = [sys.executable, "-c", "print('a child', flush=True)"]
if __import__("subprocess").run(child).returncode == 0:
    open(sys.argv[2], "w").write("done")
"""


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_pipe_without_a_reader(tmp_path: Path, stream: str) -> None:
    read, write = os.pipe()
    others = {name: subprocess.DEVNULL for name in ("stdout", "stderr") if name != stream}
    program = run(WORK, tmp_path / "mark", **{stream: write}, **others)
    os.close(write)
    os.read(read, 1)
    os.close(read)
    assert program.wait(timeout=60) == 0 and (tmp_path / "mark").read_text() == "done"


def test_a_terminal_that_closes(tmp_path: Path) -> None:
    """Its files fail with an input/output error."""
    ours, theirs = pty.openpty()
    wait = "\nsys.stdin.readline()"
    streams = {"stdin": subprocess.PIPE, "stdout": theirs, "stderr": theirs}
    program = run("print('begun', flush=True)" + wait + WORK, tmp_path / "mark", **streams)
    os.close(theirs)
    assert os.read(ours, 5) == b"begun"
    os.close(ours)
    program.communicate(b"\n", timeout=60)
    assert program.returncode == 0 and (tmp_path / "mark").read_text() == "done"


def test_an_interrupt_is_one_line(tmp_path: Path) -> None:
    code = "print('begun', flush=True)\ntime.sleep(60)"
    program = run(code, tmp_path / "mark", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert program.stdout is not None and program.stdout.readline() == b"begun\n"
    program.send_signal(signal.SIGINT)
    _, errors = program.communicate(timeout=60)
    assert program.returncode == 130 and errors == b"interrupted\n"


@pytest.mark.parametrize("late", ["threading._register_atexit", "atexit.register"])
def test_an_interrupt_after_the_last_line_changes_nothing(tmp_path: Path, late: str) -> None:
    code = (
        "import atexit, threading\n"
        "def work():\n"
        "    print('ending', flush=True)\n"
        "    time.sleep(1)\n"
        f"{late}(work)\n"
    )
    program = run(code, tmp_path / "mark", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert program.stdout is not None and program.stdout.readline() == b"ending\n"
    program.send_signal(signal.SIGINT)
    _, errors = program.communicate(timeout=60)
    assert program.returncode == 0 and errors == b""


def test_any_other_error_keeps_its_traceback(tmp_path: Path) -> None:
    program = run("1 / 0", tmp_path / "mark", stderr=subprocess.PIPE)
    _, errors = program.communicate(timeout=60)
    assert program.returncode == 1 and b"Traceback" in errors and b"ZeroDivisionError" in errors


def test_a_closed_terminal_stops_a_run_where_it_resumes() -> None:
    """A terminal that closes may send several signals: none ends the run before its checkpoint."""
    interrupts, before = Interrupts(), signal.getsignal(signal.SIGTERM)
    hangup = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    interrupts.watch()
    try:
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGHUP)
        assert interrupts.stopped and signal.getsignal(signal.SIGTERM) == before
    finally:
        interrupts.release()
        assert signal.signal(signal.SIGHUP, hangup) == signal.SIG_DFL


def test_a_run_under_nohup_continues() -> None:
    before, interrupts = signal.signal(signal.SIGHUP, signal.SIG_IGN), Interrupts()
    try:
        interrupts.watch()
        os.kill(os.getpid(), signal.SIGHUP)
        interrupts.release()
        assert not interrupts.stopped
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
