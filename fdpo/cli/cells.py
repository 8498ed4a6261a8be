"""Cells of a sweep: runs of a program in folders of their own, each finished once.

A cell is finished when ``metrics.json`` is in its folder, the last file that a program writes; one
with ``run.json`` and without it was interrupted and goes on from its last checkpoint. A cell that
runs holds a lock, and so does its process: if the sweep is killed and the process lives on, no
other sweep takes the cell, and what the process finishes counts.

A sweep's folder holds ``cells`` and ``checks`` (run folders), ``logs`` (what the program printed, a
file for each attempt) and ``locks``.
"""

from __future__ import annotations

import math
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import torch

from fdpo import runs
from fdpo.runs.interrupts import Interrupts
from fdpo.runs.locks import claim

POLL = 0.1  # seconds between looks at the processes


@dataclass(frozen=True)
class Cell:
    """A run of a program.

    Arguments:
        root: The sweep's folder.
        kind: ``cells`` or ``checks``.
        name: What its options are called; cells with other options have other names.
        program: The program.
        options: The command line, without the run folder.
        reference: What cells share that have data and reference in common.
        environment: Variables for its process.
    """

    root: Path
    kind: str
    name: str
    program: Path = Path()
    options: tuple[str, ...] = ()
    reference: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self.root / self.kind / self.name

    @property
    def finished(self) -> bool:
        """Whether its figures are there."""
        return (self.folder / runs.METRICS).exists()

    @property
    def diverged(self) -> bool:
        """Whether its training ended with numbers that are not finite."""
        return not self.finished and (self.folder / runs.NONFINITE).exists()

    @property
    def at_work(self) -> bool:
        """Whether a sweep's process runs it."""
        if not self.root.exists():  # a look at the lock would make it
            return False
        lock = claim(self.root / "locks" / self.name)
        if lock is not None:
            os.close(lock)
        return lock is None

    def command(self) -> list[str]:
        """Returns the command that runs the cell, or goes on with it, in the working folder."""
        program = self.program
        if program.is_relative_to(Path.cwd()):  # a record is of use on other machines too
            program = program.relative_to(Path.cwd())
        command = [sys.executable, str(program), *self.options]
        command += ["--output_dir", str(self.folder)]
        if (self.folder / runs.RECORD).exists():
            command += ["--resume_from_checkpoint", "last"]
        return command

    def printed(self) -> str:
        """Returns the command for a shell."""
        variables = [f"{name}={value}" for name, value in self.environment.items()]
        return shlex.join([*(["env", *variables] if variables else []), *self.command()])

    def logs(self) -> list[Path]:
        """Returns the files of what its attempts printed, in their order."""
        found = (self.root / "logs").glob(f"{self.name}.*.txt")
        return sorted(found, key=lambda path: int(path.suffixes[-2][1:]))


@dataclass
class Running:
    """A cell with its process."""

    cell: Cell
    process: subprocess.Popen[bytes]
    locks: list[int]
    worker: int
    log: Path
    begun: float


class Workers:
    """Runs cells, several at a time, each in a process of its own.

    Of the cells with one reference the first runs alone among them until one is finished: it makes
    the data where they are missing and keeps the reference's numbers, which the others then find.
    With several jobs each has a GPU, in turn, and its share of the cores, unless
    ``OMP_NUM_THREADS`` is set.

    Arguments:
        jobs: Cells at a time.
        keep_checkpoints: Whether those of finished cells stay.
    """

    def __init__(self, jobs: int, *, keep_checkpoints: bool = False) -> None:
        self.jobs, self.keep_checkpoints = jobs, keep_checkpoints
        self.interrupts = Interrupts()
        self.free = list(range(jobs))
        self.running: list[Running] = []
        self.waiting: list[Cell] = []
        self.failed: dict[str, str] = {}
        self.seconds: list[float] = []
        self.ready: set[str] = set()
        self.ended = self.total = 0
        self.told = False

    @property
    def stopped(self) -> bool:
        """Whether Ctrl-C or SIGTERM ended it."""
        return self.interrupts.stopped

    def run(self, cells: Sequence[Cell], finished: Callable[[], object]) -> dict[str, str]:
        """Runs those of the cells that are not finished; returns why others failed, by name.

        Ctrl-C or SIGTERM is passed on, and the processes are waited for: they leave checkpoints. A
        second one ends them at once.

        Arguments:
            cells: The cells, in their order.
            finished: Called after each cell that finished.
        """
        self.waiting = [cell for cell in cells if not cell.finished]
        self.ready = {cell.reference for cell in cells if cell.finished}
        self.failed, self.seconds = {}, []
        self.total, self.ended = len(cells), len(cells) - len(self.waiting)
        self.interrupts.watch()
        forwarded = False
        try:
            while self.running or (self.waiting and not self.stopped):
                for one in [r for r in self.running if r.process.poll() is not None]:
                    self._end(one, finished)
                if not self.stopped:
                    self._start(finished)
                elif not forwarded:
                    forwarded = True
                    print("stopping: waiting for the cells at work to save", flush=True)
                    self._signal(signal.SIGTERM)
                time.sleep(POLL)
        finally:
            self.interrupts.release()
            self._signal(signal.SIGKILL)  # none is left but after a second Ctrl-C or an error
        return self.failed

    def _start(self, finished: Callable[[], object]) -> None:
        """Starts cells until all workers have one; those that another sweep runs stay waiting."""
        taken: set[str] = set()  # references that a cell is at work on for the first time
        for cell in list(self.waiting):
            if not self.free:
                return
            locks = [] if cell.finished or cell.reference in taken else self._claim(cell, taken)
            if cell.finished:  # looked at with the lock in hand: by whoever had it before
                self.waiting.remove(cell)
                self._close(locks)
                self._finish(cell, "finished by another process", finished)
            elif locks:
                self.waiting.remove(cell)
                self.running.append(self._process(cell, locks))
        if self.waiting and not self.running and not self.told:
            self.told = True
            print(f"waiting: another process runs {self.waiting[0].name}", flush=True)

    def _claim(self, cell: Cell, taken: set[str]) -> list[int]:
        """Returns the locks that a cell needs, or none of them."""
        folder = cell.root / "locks"
        own = claim(folder / cell.name)
        if own is None or cell.reference in self.ready:
            return [] if own is None else [own]
        first = claim(folder / f"reference-{cell.reference}")
        if first is not None:
            return [own, first]
        taken.add(cell.reference)
        os.close(own)
        return []

    def _process(self, cell: Cell, locks: list[int]) -> Running:
        attempt = len(cell.logs()) + 1
        log = cell.root / "logs" / f"{cell.name}.{attempt}.txt"
        log.parent.mkdir(parents=True, exist_ok=True)
        worker = self.free.pop(0)
        with log.open("wb") as output:
            now = datetime.now(UTC).isoformat()
            output.write(f"{now} {cell.printed()}\n".encode())
            output.flush()
            process = subprocess.Popen(
                cell.command(),
                env={**os.environ, **self._share(worker), **cell.environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                pass_fds=locks,  # held as long as the process lives, whatever becomes of us
                start_new_session=True,  # Ctrl-C reaches it through us, once
            )
        return Running(cell, process, locks, worker, log, time.monotonic())

    def _share(self, worker: int) -> dict[str, str]:
        """Returns the variables that give a worker its GPU and its cores."""
        if self.jobs == 1:
            return {}
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        share = {"OMP_NUM_THREADS": str(max(1, (cores or 1) // self.jobs))}
        if "OMP_NUM_THREADS" in os.environ:
            share = {}
        if devices := visible_devices():
            share["CUDA_VISIBLE_DEVICES"] = devices[worker % len(devices)]
        return share

    def _end(self, one: Running, finished: Callable[[], object]) -> None:
        self.running.remove(one)
        self.free.append(one.worker)
        cell, code = one.cell, one.process.returncode
        elapsed = time.monotonic() - one.begun
        if cell.finished and code == 0:
            if not self.keep_checkpoints:
                for folder in cell.folder.glob("checkpoint-*"):
                    shutil.rmtree(folder)
            self.seconds.append(elapsed)
            self._finish(cell, duration(elapsed), finished)
        elif not self.stopped:
            self.ended += 1
            self.failed[cell.name] = f"{reason(one.log, code)}; see {one.log}"
            self._say(f"{cell.name} FAILED: {self.failed[cell.name]}")
        self._close(one.locks)

    def _finish(self, cell: Cell, how: str, finished: Callable[[], object]) -> None:
        self.ready.add(cell.reference)
        self.ended += 1
        finished()
        self._say(f"{cell.name}: {how}")

    def _say(self, what: str) -> None:
        failed = f"; {len(self.failed)} failed" if self.failed else ""
        left = "" if math.isnan(self.left()) else f"; about {duration(self.left())} left"
        print(f"[{self.ended}/{self.total}] {what}{failed}{left}", flush=True)

    def left(self) -> float:
        """Returns the seconds that are left if cells take as long as so far; NaN if none ended."""
        if not self.seconds:
            return math.nan
        mean, now = sum(self.seconds) / len(self.seconds), time.monotonic()
        begun = sum(max(0.0, mean - (now - one.begun)) for one in self.running)
        return (mean * len(self.waiting) + begun) / self.jobs

    def _signal(self, number: int) -> None:
        for one in self.running:
            if one.process.poll() is None:
                os.killpg(one.process.pid, number)

    def _close(self, locks: list[int]) -> None:
        for lock in locks:
            os.close(lock)


def visible_devices() -> list[str]:
    """Returns the GPUs that processes started here see, as ``CUDA_VISIBLE_DEVICES`` names them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is None:
        return [str(number) for number in range(torch.cuda.device_count())]
    return [name for name in named.split(",") if name]


def reason(log: Path, code: int) -> str:
    """Returns why a process ended: the last line it printed, of those that name an error if any."""
    lines = re.split(r"[\r\n]+", log.read_text(encoding="utf-8", errors="replace"))[1:]
    lines = [line.strip() for line in lines if line.strip()]
    last = next((line for line in reversed(lines) if "rror" in line), lines[-1] if lines else "")
    ended = f"ended by signal {-code}" if code < 0 else f"exit status {code}"
    return f"{ended}: {last}" if last else ended


def seconds(cell: Cell) -> float | None:
    """Returns how long a finished cell's attempts took together; ``None`` if no sweep ran it.

    Also those that were killed: an attempt lasts from the time in its log's first line to the last
    thing it printed, or to the cell's figures.
    """
    total, logs = None, cell.logs()
    for log in logs:
        with log.open(encoding="utf-8", errors="replace") as file:
            begun = file.readline().split(" ")[0]
        ended = log.stat().st_mtime
        if log == logs[-1]:
            ended = max(ended, (cell.folder / runs.METRICS).stat().st_mtime)
        if begun:  # nothing if the sweep was killed between two lines of code
            total = (total or 0.0) + max(0.0, ended - datetime.fromisoformat(begun).timestamp())
    return total


def duration(seconds: float) -> str:
    """Returns seconds as people say them: 45 s, 12 min, 3.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
