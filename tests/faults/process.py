"""Processes of a program in a folder of their own, their trails of changed files, their orphans."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults.programs import RUN, Program
from tests.golden.workplace import ENVIRONMENT, ROOT

INJECTED = Path(__file__).parent / "inject"
LIMIT = 300  # seconds that a process may take
PATIENCE = 15  # seconds that children of an ended process may take to end
VARIABLES = ("FDPO_CACHE", "HF_HOME", "HF_DATASETS_CACHE", "XDG_CACHE_HOME", "FDPO_DATA")
"""Variables of this process that a program does not get: its caches are those of its home."""


class Hangs(Exception):
    """A process that takes longer than :data:`LIMIT`."""


@dataclass
class Stage:
    """The folder of a trial, in which its processes run one after the other.

    ``work`` is the folder that they work in, ``home`` the user's home.

    Arguments:
        program: The program.
        setup: The folder of its set-up, which trials share.
        root: The folder of the trial.
    """

    program: Program
    setup: Path
    root: Path
    outputs: list[Path] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.root = self.root.resolve()
        self.work.mkdir(parents=True, exist_ok=True)
        self.home.mkdir(exist_ok=True)

    @property
    def work(self) -> Path:
        """The folder that the program works in."""
        return self.root / "work"

    @property
    def home(self) -> Path:
        """The home of its user."""
        return self.root / "home"

    @property
    def trail(self) -> Path:
        """The list of changed files."""
        return self.root / "trail"

    def environment(self, faults: Mapping[str, str]) -> dict[str, str]:
        """Returns the variables of a process with faults."""
        paths = {"HOME": self.home, "FAULT_ROOT": self.root, "FAULT_TRAIL": self.trail}
        known = {name: value for name, value in os.environ.items() if name not in VARIABLES}
        return {
            **known,
            **ENVIRONMENT,
            "PYTHONPATH": f"{INJECTED}{os.pathsep}{ROOT}",
            "PYTHONFAULTHANDLER": "",
            **{name: str(path) for name, path in paths.items()},
            **faults,
        }

    def start(
        self, faults: Mapping[str, str] | None = None, *words: str, pipe: bool = False
    ) -> subprocess.Popen[bytes]:
        """Starts the program, its output in a file, or with ``pipe`` its standard output not."""
        output = self.root / f"output-{len(self.outputs) + 1}.txt"
        self.outputs.append(output)
        self.trail.unlink(missing_ok=True)
        with output.open("wb") as file:
            return subprocess.Popen(
                [sys.executable, *self.program.command(self.setup), *words],
                cwd=self.work,
                env=self.environment(faults or {}),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE if pipe else file,
                stderr=file,
                start_new_session=True,
                preexec_fn=hear_signals,
            )

    def resume(self) -> int:
        """Runs the command that resumes, or the first one where no run has begun."""
        begun = (self.work / RUN / "run.json").exists()
        return self.end(self.start(None, *(self.program.resume if begun else ())))

    def end(self, process: subprocess.Popen[bytes]) -> int:
        """Waits for the end of a process; returns its status.

        Raises:
            Hangs: If it takes too long; it is killed.
        """
        try:
            return process.wait(LIMIT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise Hangs(f"no end after {LIMIT} s: {self.last_line()}") from None

    def output(self) -> str:
        """Returns the output of the last process."""
        return self.outputs[-1].read_text(encoding="utf-8", errors="replace")

    def last_line(self) -> str:
        """Returns the last line of that output, without what a progress bar wrote over."""
        lines = [line.strip() for line in re.split(r"[\r\n]+", self.output()) if line.strip()]
        return lines[-1][-300:] if lines else "no output"

    def changes(self, under: str = "") -> list[tuple[float, str, str]]:
        """Returns the changes of files by the last process: time, kind and path."""
        if not self.trail.exists():
            return []
        lines = self.trail.read_text(encoding="utf-8", errors="replace").splitlines()
        rows = [line.split(" ", 2) for line in lines]
        whole = [row for row in rows if len(row) == 3]
        return [(float(t), kind, path) for t, kind, path in whole if path.startswith(under)]

    def phase(self) -> str:
        """Returns a description of the moment at which the last process ended."""
        bars = re.findall(r"([a-z][\w ]+): +\d+%\|[^|]*\| *(\d+/\d+)", self.output())
        changes = self.changes("work/")
        if not changes:
            return "loading"
        _, kind, path = changes[-1]
        last = f"{kind} {re.sub(r'[0-9a-f]{12,}', '*', path.removeprefix(f'work/{RUN}/'))}"
        return f"{' '.join(bars[-1])}; last {last}" if bars else f"last {last}"

    def orphans(self) -> list[int]:
        """Returns the living processes of the trial, after a moment in which they may end."""
        deadline = time.monotonic() + PATIENCE
        while (alive := self._alive()) and time.monotonic() < deadline:
            time.sleep(0.2)
        return alive

    def _alive(self) -> list[int]:
        mark, found = f"FAULT_ROOT={self.root}\0".encode(), []
        for entry in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):  # it ended, or belongs to another user
                if mark in (entry / "environ").read_bytes() and "Z" not in _state(entry):
                    found.append(int(entry.name))
        return found

    def kill_orphans(self) -> None:
        """Kills the living processes of the trial."""
        for process in self._alive():
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)


def hear_signals() -> None:
    """Undoes what a shell does for programs in its background, and nohup."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def _state(entry: Path) -> str:
    return (entry / "stat").read_text().rsplit(")", 1)[-1].split()[0]
