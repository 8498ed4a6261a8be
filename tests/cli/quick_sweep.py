"""Sweeps of a stand-in program, and looks at what they did."""

from __future__ import annotations

import json
import multiprocessing
import os
import shlex
import signal
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest

from fdpo.cli import sweep as sweeps
from fdpo.cli.grid import Program
from fdpo.losses.config import LossConfig

Sweep = Callable[..., int]


@dataclass
class QuickConfig(LossConfig):
    model: str = "small"
    scorers: list[str] = field(default_factory=lambda: ["vader"])
    learning_rate: float = 1.0
    max_steps: int = 3
    eval_num_prompts: int = 10
    seed: int = 0
    logging_steps: int = 1
    report_to: str = "none"
    output_dir: str | None = None
    resume_from_checkpoint: str | None = None

    def __post_init__(self) -> None:
        self.check_loss()


QUICK = Program(
    path=Path(__file__).with_name("quick_program.py"),
    types=(QuickConfig,),
    reference=("model",),
    trial=lambda steps: {"max_steps": steps, "eval_num_prompts": 0},
    trial_metric="loss",
    aliases={"lr": "learning_rate", "eval_openings": "eval_num_prompts"},
    former_names={"eval_num_prompts": "eval_openings"},
)


def table() -> list[dict[str, Any]]:
    return pyarrow.parquet.read_table("out/table.parquet").to_pylist()


def events(ledger: Path) -> list[tuple[str, str, int]]:
    rows = [line.split() for line in ledger.read_text().splitlines()]
    return [(what, name, int(pid)) for what, name, pid in rows]


def printed(capsys: pytest.CaptureFixture[str]) -> list[list[str]]:
    """Returns the options of the commands that --print printed."""
    lines = capsys.readouterr().out.splitlines()
    return [shlex.split(line)[2:] for line in lines if "quick_program.py" in line]


def run_forked(*options: object) -> Any:
    """Starts a sweep in a process that has imported everything already."""
    argv = [*map(str, options), "--output_dir", "out"]
    process = multiprocessing.get_context("fork").Process(target=_in_foreground, args=(argv,))
    process.start()
    return process


def _in_foreground(argv: list[str]) -> None:
    """Runs a sweep that hears Ctrl-C, which a shell hides from tests in its background."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sweeps.main(QUICK, argv)


def wait_for(ledger: Path, lines: int, process: Any, old: Collection[int] = ()) -> None:
    """Waits for so many lines of the ledger that are not of old processes, or the sweep's end."""
    while process.is_alive() and sum(pid not in old for _, _, pid in events(ledger)) < lines:
        time.sleep(0.01)


def finished() -> set[tuple[str, int, int]]:
    """Returns the finished runs, each with what tells its metrics from others written later."""
    stats = [(path.parent.name, path.stat()) for path in Path("out/runs").glob("*/metrics.json")]
    return {(name, stat.st_ino, stat.st_mtime_ns) for name, stat in stats}


def cut_power(ledger: Path) -> None:
    """Kills the runs that are at work."""
    ended = {pid for what, _, pid in events(ledger) if what == "end"}
    for pid in {pid for _, _, pid in events(ledger)} - ended:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


GRID = ("--beta", 0.1, 0.2, 0.3, 0.4, 0.5, "--seed", *range(5), "--max_steps", 4, "--jobs", 2)


RATES = ("--learning_rates", 0.1, 0.5, 7, "--check_steps", 4)


def ended_by(number: int, ledger: Path, *options: object) -> int:
    """Returns the exit status of a sweep that gets a signal when its first run is at work."""
    process = run_forked(*options)
    wait_for(ledger, 2, process)
    os.kill(process.pid, number)
    process.join()
    return process.exitcode


def variables() -> list[dict[str, str]]:
    """Returns the environment variables that each run had."""
    records = [json.loads(path.read_text()) for path in Path("out/runs").glob("*/run.json")]
    return [record["variables"] for record in records]
