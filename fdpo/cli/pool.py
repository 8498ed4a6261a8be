"""Runs of a sweep, each in a process of its own, several at a time.

A sweep's folder holds ``runs`` and ``trials`` (run folders) and ``logs`` (the output of each
attempt). A run is finished when its folder holds ``metrics.json``, the last file that a program
writes; one with ``run.json`` alone was interrupted and resumes from its last checkpoint. A run's
process locks its log: if the sweep is killed and the process lives on, the next sweep waits for it.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from fdpo import runs
from fdpo.runs.interrupts import Interrupts
from fdpo.runs.locks import hold, is_held

POLL = 0.05  # seconds between looks at processes and signals


@dataclass(frozen=True)
class SweepRun:
    """A run of a sweep.

    Arguments:
        root: The sweep's folder.
        name: The name of its options: runs with other options have other names.
        kind: ``runs`` or ``trials``.
        program: The program.
        options: The options that the sweep gives it.
        reference: A name shared by runs that have data and reference in common.
        environment: Variables of its process.
    """

    root: Path
    name: str
    kind: str = "runs"
    program: Path = Path()
    options: Mapping[str, Any] = field(default_factory=dict)
    reference: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self.root / self.kind / self.name

    @property
    def finished(self) -> bool:
        """True once its metrics exist."""
        return (self.folder / runs.METRICS).exists()

    @property
    def nonfinite(self) -> bool:
        """True if its training ended with numbers that are not finite."""
        return not self.finished and (self.folder / runs.NONFINITE).exists()

    @property
    def at_work(self) -> bool:
        """True while a process of a sweep works on it."""
        logs = self.logs()
        return bool(logs) and is_held(logs[-1])

    def logs(self) -> list[Path]:
        """Returns the logs of its attempts, the oldest first."""
        logs = (self.root / "logs").glob(f"{self.name}.*.txt")
        return sorted(logs, key=lambda path: int(path.suffixes[-2][1:]))

    def command(self) -> list[str]:
        """Returns the command that starts or resumes the run from the working folder."""
        program = self.program
        if program.is_relative_to(Path.cwd()):  # a record is of use on other machines too
            program = program.relative_to(Path.cwd())
        words = [word for option in self.options.items() for word in option_words(*option)]
        command = [sys.executable, str(program), *words, "--output_dir", str(self.folder)]
        started = (self.folder / runs.RECORD).exists()
        return [*command, *(["--resume_from_checkpoint", "last"] if started else [])]

    def shell_command(self) -> str:
        """Returns the command with the variables of its process, for a shell."""
        variables = [f"{name}={value}" for name, value in self.environment.items()]
        return shlex.join([*(["env", *variables] if variables else []), *self.command()])

    def start(self, environment: Mapping[str, str]) -> tuple[subprocess.Popen[bytes], Path]:
        """Starts the process with a new log, which it locks as long as it lives."""
        log = self.root / "logs" / f"{self.name}.{len(self.logs()) + 1}.txt"
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb", buffering=0) as output:
            output.write(f"{datetime.now(UTC).isoformat()} {self.shell_command()}\n".encode())
            lock = hold(log)
            process = subprocess.Popen(
                self.command(),
                env={**os.environ, **environment, **self.environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                pass_fds=[lock],
                start_new_session=True,  # the sweep passes Ctrl-C on, once
            )
            os.close(lock)
        return process, log

    def seconds(self) -> float | None:
        """Returns the time of all attempts at the finished run; ``None`` if no sweep ran it.

        An attempt lasts from the time in its log's first line to its last output or the metrics.
        """
        total, logs = None, self.logs()
        for log in logs:
            with log.open(encoding="utf-8", errors="replace") as file:
                begin = file.readline().split(" ")[0]
            end = [log, self.folder / runs.METRICS] if log == logs[-1] else [log]
            if begin:  # nothing if the sweep was killed between two lines of code
                took = max(path.stat().st_mtime for path in end)
                took -= datetime.fromisoformat(begin).timestamp()
                total = (total or 0.0) + max(0.0, took)
        return total


class Pool:
    """Workers that run one process each at a time.

    Of the runs with one reference the first runs alone until one has finished: it creates missing
    data and caches the reference's numbers for the others. Several workers share the GPUs, in turn,
    and the cores, unless ``OMP_NUM_THREADS`` is set.

    Arguments:
        sweep_runs: The runs, in their order; finished ones are skipped.
        jobs: The number of workers.
        on_finish: Called with each run that finishes.
    """

    def __init__(
        self, sweep_runs: Sequence[SweepRun], jobs: int, on_finish: Callable[[SweepRun], object]
    ) -> None:
        self.sweep_runs, self.jobs, self.on_finish = sweep_runs, jobs, on_finish
        self.ended = sum(run.finished for run in sweep_runs)
        self.free = list(range(jobs))
        self.running: dict[Future[str], SweepRun] = {}
        self.seconds: list[float] = []
        self.failed: dict[str, str] = {}
        self.interrupts, self.killed = Interrupts(), False

    def run(self) -> dict[str, str]:
        """Runs what is not finished; returns the reasons of failures by the names of runs.

        Ctrl-C and SIGTERM are passed on to the processes, which save and end before
        ``KeyboardInterrupt`` is raised. A second Ctrl-C kills them.
        """
        self.interrupts.watch()
        with ThreadPoolExecutor(self.jobs) as threads:
            try:
                while self._submit(threads):
                    for future in wait(self.running, return_when=FIRST_COMPLETED).done:
                        self._end(self.running.pop(future), future.result())
            except BaseException:
                self.killed = True
                raise
            finally:
                self.interrupts.release()
        if self.interrupts.stopped:
            raise KeyboardInterrupt
        return self.failed

    @property
    def signal(self) -> int:
        """The signal that is due to all processes, 0 for none."""
        if self.killed:
            return signal.SIGKILL
        return signal.SIGTERM if self.interrupts.stopped else 0

    def _submit(self, threads: Executor) -> bool:
        """Submits the runs that may start, none after a signal; returns whether any is at work."""
        missing = [r for r in self.sweep_runs if not r.finished and r.name not in self.failed]
        missing.sort(key=lambda run: not run.at_work)  # processes of a killed sweep come first
        ready = {run.reference for run in self.sweep_runs if run.finished}
        first = {run.reference: run for run in reversed(missing)}
        for run in () if self.signal else missing:
            if run.reference in ready or run is first[run.reference]:
                if run not in self.running.values():
                    self.running[threads.submit(self._attempt, run)] = run
        return bool(self.running)

    def _attempt(self, run: SweepRun) -> str:
        """Runs a process and passes signals on; returns why it failed, "" if it did not.

        A process of a sweep that was killed takes a worker until it ends, and the run starts only
        if that has not finished it.
        """
        worker = self.free.pop(0)
        try:
            if run.at_work:
                print(f"waiting for {run.name}: its process outlived another sweep", flush=True)
            while run.at_work and not self.signal:
                time.sleep(POLL)
            if self.signal or run.finished:
                return ""
            process, log = run.start(self._share(worker))
            sent = 0
            while process.poll() is None:
                if sent != self.signal:
                    sent = self.signal
                    os.killpg(process.pid, sent)
                    print(f"stopping {run.name}", flush=True)
                time.sleep(POLL)
        finally:
            self.free.append(worker)
        succeeded = run.finished and process.returncode == 0
        return "" if succeeded or sent else f"{failure(log, process.returncode)}; see {log}"

    def _share(self, worker: int) -> dict[str, str]:
        """Returns the variables that give a worker its GPU and its cores."""
        if self.jobs == 1:
            return {}
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        share = {"OMP_NUM_THREADS": str(max(1, (cores or 1) // self.jobs)), **os.environ}
        devices = share.get("CUDA_VISIBLE_DEVICES")
        if devices is None:
            devices = ",".join(map(str, range(torch.cuda.device_count())))
        names = [name for name in devices.split(",") if name]
        return share | ({"CUDA_VISIBLE_DEVICES": names[worker % len(names)]} if names else {})

    def _end(self, run: SweepRun, reason: str) -> None:
        """Prints the outcome of a run, and the time left if the others take as long on average."""
        if not (reason or run.finished):
            return  # stopped
        if reason:
            self.failed[run.name] = reason
            outcome = f"FAILED: {reason}"
        elif (seconds := run.seconds()) is None:
            outcome = "finished elsewhere"
        else:
            self.seconds.append(seconds)
            outcome = duration(seconds)
        if not reason:
            self.on_finish(run)
        self.ended += 1
        outcome += f"; {len(self.failed)} failed" if self.failed else ""
        if self.seconds:
            left = fmean(self.seconds) * (len(self.sweep_runs) - self.ended) / self.jobs
            outcome += f"; about {duration(left)} left"
        print(f"[{self.ended}/{len(self.sweep_runs)}] {run.name}: {outcome}", flush=True)


def finished_runs(root: Path) -> list[Path]:
    """Returns the run folders of a sweep's finished runs, in the order of their names."""
    return sorted(path.parent for path in root.glob(f"runs/*/{runs.METRICS}"))


def option_words(name: str, value: Any) -> list[str]:
    """Returns the words that give an option a value on a command line.

    Example:
        >>> option_words("beta", 1.0), option_words("scorers", ["a", "b"])
        (['--beta=1'], ['--scorers', 'a', 'b'])
    """
    first, *rest = map(option_text, value if isinstance(value, list) else [value])
    return [f"--{name}", first, *rest] if rest else [f"--{name}={first}"]


def option_text(value: Any) -> str:
    """Returns a single value as it is written on a command line."""
    return value if isinstance(value, str) else json.dumps(value).removesuffix(".0")


def failure(log: Path, code: int) -> str:
    """Returns why a process ended: its status and the last line with an error, or the last line."""
    lines = re.split(r"[\r\n]+", log.read_text(encoding="utf-8", errors="replace"))[1:]
    lines = [line.strip() for line in lines if line.strip()] or [""]
    last = next((line for line in reversed(lines) if "rror" in line), lines[-1])
    status = f"ended by signal {-code}" if code < 0 else f"exit status {code}"
    return f"{status}: {last}" if last else status


def duration(seconds: float) -> str:
    """Returns seconds for a reader: 45 s, 12 min, 3.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
