"""Faults: kills, full disks, folders that cannot be written, damaged files, programs twice at once.

Each is played on a stage (:mod:`tests.faults.process`) and returns where it hit. It raises
:class:`Broken` if the program did not answer it as it should; that the end is the one of an
uninterrupted run is checked afterwards, for all of them.
"""

from __future__ import annotations

import errno
import random
import re
import shutil
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from tests.faults.hub import Hub
from tests.faults.process import Stage
from tests.faults.programs import RUN

HARMED = ("cut in half", "emptied", "removed", "garbage")


class Broken(Exception):
    """An answer to a fault that loses work or says too much."""


@dataclass(frozen=True)
class Baseline:
    """An uninterrupted run: its stage, when it began to change files, and how long it did."""

    stage: Stage
    loading: float
    working: float
    interrupted: Callable[[], Stage]


class Fault(Protocol):
    """A fault: its name in the table, and whether the program must reach its end in spite of it."""

    @property
    def name(self) -> str: ...

    @property
    def finishes(self) -> bool: ...

    def play(self, stage: Stage, baseline: Baseline) -> str:
        """Runs the program with the fault; returns where the fault hit."""
        ...


def require_brief(stage: Stage) -> None:
    """Raises `Broken` if the output of the last process has a traceback."""
    if "Traceback (most recent call last)" in stage.output():
        raise Broken(f"a traceback: {stage.last_line()}")


def require_status(stage: Stage, status: int, sent: int) -> None:
    """Raises `Broken` unless a process ended as one should that got a signal, or had ended."""
    expected = {0, 130} if sent == signal.SIGINT else {0, 130, -sent}
    if status not in expected:
        raise Broken(f"status {status} after {signal.Signals(sent).name}: {stage.last_line()}")
    if sent != signal.SIGKILL:
        require_brief(stage)


@dataclass(frozen=True)
class Kill:
    """A signal at a random moment.

    Arguments:
        signal: The signal.
        moment: A share of the time from the first file to the end; below 0, of the time before.
    """

    signal: int
    moment: float
    finishes = False

    @property
    def name(self) -> str:
        """The name in the table."""
        return f"{signal.Signals(self.signal).name}, {'at work' if self.moment >= 0 else 'loading'}"

    def play(self, stage: Stage, baseline: Baseline) -> str:
        """Sends the signal, earlier where the run had ended before."""
        moment = self.moment
        for _ in range(4):
            process = stage.start()
            if moment < 0:
                time.sleep(-moment * baseline.loading)
            else:
                while process.poll() is None and not stage.changes("work/"):
                    time.sleep(0.02)
                time.sleep(moment * baseline.working)
            if process.poll() is None:
                process.send_signal(self.signal)
                require_status(stage, stage.end(process), self.signal)
                return f"at {abs(moment):.0%}: {stage.phase()}"
            shutil.rmtree(stage.root)
            stage.__post_init__()
            moment /= 2
        raise Broken(f"always ended before the signal: {stage.last_line()}")


@dataclass(frozen=True)
class KillAt:
    """A signal at a named point: ``event pattern n`` (:mod:`tests.faults.inject`)."""

    signal: int
    point: str
    finishes = False

    @property
    def name(self) -> str:
        """The name in the table."""
        return f"{signal.Signals(self.signal).name} at a point"

    def play(self, stage: Stage, baseline: Baseline) -> str:
        """Runs the program up to the point."""
        fault = {"FAULT_POINT": self.point, "FAULT_SIGNAL": str(self.signal)}
        status = stage.end(stage.start(fault))
        if not (stage.root / "fired").exists():
            raise Broken(f"{self.point} is never reached: {stage.last_line()}")
        if not stage.program.adopts:  # there the process of a run got it
            require_status(stage, status, self.signal)
        return f"{self.point}: {stage.phase()}"


@dataclass(frozen=True)
class FullDisk:
    """A disk that takes no more: files up to a size only, or no file from the n-th on."""

    size: int = 0
    point: str = ""
    finishes = False
    name = "full disk"

    def play(self, stage: Stage, baseline: Baseline) -> str:
        """Runs the program, which may end with one line."""
        fault = {"FAULT_FSIZE": str(self.size)}
        if self.point:
            fault = {"FAULT_POINT": self.point, "FAULT_ERRNO": str(errno.ENOSPC)}
        status = stage.end(stage.start(fault))
        return f"{self.point or f'files up to {self.size:,} bytes'}: status {status}"


@dataclass(frozen=True)
class NoCache:
    """A cache that cannot be kept or read, as ``how`` says."""

    how: str
    finishes = True

    @property
    def name(self) -> str:
        """The name in the table."""
        return f"cache: {self.how}"

    def play(self, stage: Stage, baseline: Baseline) -> str:
        """Runs the program, which must end as if nothing were wrong, with a line that says so."""
        fault = {}
        cache, rest = stage.program.caches.split("/*")[0], "/*"
        codes = {"read-only": errno.EROFS, "full disk": errno.ENOSPC}
        if self.how == "no home":
            fault["HOME"] = "/dev/null/home"
        elif self.how == "a file in its place":
            (stage.root / cache).parent.mkdir(parents=True, exist_ok=True)
            (stage.root / cache).write_text("no folder")
        elif self.how == "damaged":
            return self._play_damaged(stage, baseline)
        else:
            event = "mkdir" if self.how == "read-only" else "save"
            fault = {"FAULT_POINT": f"{event} {cache}{rest} 1", "FAULT_ERRNO": str(codes[self.how])}
        status = stage.end(stage.start(fault))
        (stage.root / cache).unlink(missing_ok=True) if self.how.startswith("a file") else None
        self._require_end(stage, status)
        return self.how

    def _play_damaged(self, stage: Stage, baseline: Baseline) -> str:
        root = baseline.stage.root
        files = [path for path in root.glob(stage.program.caches + "*/*") if path.is_file()]
        files = files or [p for p in root.glob(f"{stage.program.caches}/**/*") if p.is_file()]
        if not files:
            raise Broken("the uninterrupted run has no cache")
        for number, file in enumerate(sorted(files)):
            copy = stage.root / file.relative_to(root)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, copy)
            harm(copy, HARMED[number % len(HARMED)], random.Random(number))
        self._require_end(stage, stage.end(stage.start()))
        return f"{len(files)} files"

    def _require_end(self, stage: Stage, status: int) -> None:
        require_brief(stage)
        if status:
            raise Broken(f"the cache costs the run: status {status}: {stage.last_line()}")


@dataclass(frozen=True)
class Damage:
    """A file of an interrupted run that is damaged: the end is the same, or a line names the file.

    Arguments:
        file: The file, in the folder that the program works in.
        how: One of :data:`HARMED`.
    """

    file: str
    how: str
    finishes = True

    @property
    def name(self) -> str:
        """The name in the table."""
        return f"file {self.how}"

    def play(self, stage: Stage, baseline: Baseline) -> str:
        """Damages the file and resumes; what is made again is named in a line."""
        shutil.rmtree(stage.root)
        shutil.copytree(baseline.interrupted().root, stage.root, symlinks=True)
        (stage.root / "fired").unlink(missing_ok=True)
        harm(stage.work / self.file, self.how, random.Random(self.file))
        status = stage.resume()
        require_brief(stage)
        checkpoint = re.match(r".*/checkpoint-\d+(?=/)", self.file)
        place = checkpoint[0] if checkpoint else self.file
        again = any(
            kind != "remove" and path == f"work/{place}" for _, kind, path in stage.changes()
        )
        named = Path(place).name in stage.output() or " again" in stage.output()
        named |= self.how == "removed" and not checkpoint  # a part that is missing is made
        if (again or status) and not named:
            raise Broken(f"status {status}, and no line names {place}: {stage.last_line()}")
        if status and checkpoint:  # it says how: from the checkpoint before
            status = stage.end(stage.start(None, "--resume_from_checkpoint", "checkpoint-2"))
        if status:
            raise Broken(f"status {status}: {stage.last_line()}")
        return f"{self.file} {self.how}"


@dataclass(frozen=True)
class Twice:
    """The same command twice at the same time."""

    name = "twice at once"
    finishes = True

    def play(self, stage: Stage, baseline: Baseline) -> str:
        """Starts the program twice: one is not disturbed, the other says so in a line or waits."""
        processes = [stage.start(), stage.start()]
        statuses = sorted(stage.end(process) for process in processes)
        for output in stage.outputs[-2:]:
            require_brief(replace(stage, outputs=[output]))
        if 0 not in statuses:
            raise Broken(f"both end with status {statuses}: {stage.last_line()}")
        return f"status {statuses}"


@dataclass(frozen=True)
class KillUpload:
    """A kill while results are uploaded: the same command uploads all of them, and no leftovers.

    Arguments:
        request: The number of the request that the hub does not answer.
    """

    request: int
    name = "SIGKILL, uploading"
    finishes = True

    def play(self, stage: Stage, baseline: Baseline) -> str:
        """Kills the program while it waits for the hub, and gives its command again."""
        with Hub() as hub:
            hub.paused = self.request
            process = stage.start(hub.environment, *stage.program.upload)
            while not hub.reached.wait(0.2):
                if process.poll() is not None:
                    raise Broken(f"ended before request {self.request}: {stage.last_line()}")
            process.kill()
            stage.end(process)
            leftover = stage.work / f"{RUN}/.metrics.1-00000000.json"  # of a killed writer
            leftover.write_text("{}")
            again = (*stage.program.upload, *stage.program.resume)
            status = stage.end(stage.start(hub.environment, *again))
            require_brief(stage)
            if status:
                raise Broken(f"status {status}: {stage.last_line()}")
            _require_uploaded(hub.files, stage.work / RUN)
            leftover.unlink(missing_ok=True)
            return f"request {self.request}; {len(hub.files)} files uploaded"


def _require_uploaded(files: Mapping[str, bytes], folder: Path) -> None:
    """Raises `Broken` unless a card and weights or data are on the hub as they are in a folder."""
    names = {name for name in files if Path(name).suffix in (".jsonl", ".safetensors")}
    if not names or "README.md" not in files:
        raise Broken(f"no card or no results on the hub: {sorted(files)}")
    for name, content in files.items():
        if any(part.startswith(".") and part != ".gitattributes" for part in Path(name).parts):
            raise Broken(f"{name} is uploaded")
        if name in names and (folder / name).read_bytes() != content:
            raise Broken(f"{name} has other contents on the hub")


@dataclass(frozen=True)
class ClosedOutput:
    """An output that nobody reads after its first line, as with ``| head -1``."""

    name = "output closed"
    finishes = False

    def play(self, stage: Stage, baseline: Baseline) -> str:
        """Reads a line and closes the pipe."""
        process = stage.start(pipe=True)
        assert process.stdout is not None
        line = process.stdout.readline().decode(errors="replace").strip()
        process.stdout.close()
        status = stage.end(process)
        require_brief(stage)
        if not (stage.work / "run/run.json").exists() or status not in (0, 141, -13, 1, 120):
            raise Broken(f"status {status}: {stage.last_line()}")
        return f"after {line[:40]!r}: status {status}"


def harm(path: Path, how: str, rng: random.Random) -> None:
    """Damages a file."""
    if how == "removed":
        path.unlink()
        return
    data = path.read_bytes()
    kept = {
        "cut in half": data[: len(data) // 2],
        "emptied": b"",
        "garbage": rng.randbytes(len(data)),
    }
    path.write_bytes(kept[how])
