"""Sweeps: a program's runs over a grid of its options, and one table of their results.

A run is one combination of the options' values (:mod:`fdpo.cli.grid`); :mod:`fdpo.cli.pool` runs
several at a time.

With ``--learning_rates`` each method gets its best learning rate at each beta, so that none is
judged at a bad one: every combination of the other options is trained with the first seed for
``--check_steps`` updates (:mod:`fdpo.cli.learning_rates`). With ``--check_betas`` this is done at
these betas only, and rates at others follow a power law.

A folder may take one sweep after the other; the table has all their runs. Other data need another
name or another folder.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from fdpo.cli import arguments
from fdpo.cli.grid import Grid, Program
from fdpo.cli.learning_rates import LearningRates
from fdpo.cli.pool import Pool, SweepRun
from fdpo.cli.table import write_table
from fdpo.losses.config import RESETS

LOCK = "sweep.lock"  # held while a sweep is at work in a folder


@dataclass
class SweepArguments:
    """Sweep."""

    output_dir: str | None = field(
        default=None, metadata={"help": "folder of the sweep; default: runs/PROGRAM-sweep"}
    )
    jobs: int = field(default=1, metadata={"help": "runs at a time, each on a GPU if there are"})
    learning_rates: list[float] = field(
        default_factory=list,
        metadata={"help": "rates to try first for each loss; default: --learning_rate for all"},
    )
    check_steps: int = field(
        default=50, metadata={"help": "updates of a trial; best as many as a run has"}
    )
    check_betas: list[float] = field(
        default_factory=list,
        metadata={"help": "try rates at these beta only; others get theirs by the power law"},
    )
    print: bool = field(
        default=False, metadata={"help": "only print the commands of unfinished runs"}
    )
    keep_checkpoints: bool = field(
        default=False, metadata={"help": "keep the checkpoints of finished runs"}
    )

    def __post_init__(self) -> None:
        if self.check_betas and not self.learning_rates:
            raise ValueError("--check_betas has no effect without --learning_rates")


HELP = (
    "Every option of {program} (see {program} --help) may be given several values, as in --loss "
    "sigmoid jsd alpha --alpha 0.3 0.7 --beta 0.03 0.1 --seed 0 1 2: each combination is a run, "
    "the first option varying slowest; a loss that takes no alpha is run once, not once for each "
    "alpha. An option that is a list is varied by giving it again. In the YAML file of --config "
    "several values are a list. The same command skips finished runs, resumes interrupted ones and "
    "repeats failed ones. With --learning_rates whatever varies but the seed is trained with each "
    "rate for --check_steps updates with the first seed, and with rates beyond them while the best "
    "is the smallest or the largest; its runs get the rate with the least {metric} over the second "
    "half; --check_betas limits this to some beta. OUTPUT_DIR/table.csv and .parquet hold a row "
    "for each finished run."
)


def main(program: Program, argv: Sequence[str] | None = None) -> None:
    """Runs a sweep of a program from a command line, by default that of the process.

    Exits with status 1 if some runs failed, 130 after Ctrl-C, and 2, before any run starts, for
    wrong options or a folder where another sweep is at work.
    """
    args, values = arguments.parse_grid(
        SweepArguments,
        program.types,
        argv,
        program="sweep.py",
        description=HELP.format(program=program.path.name, metric=program.trial_metric),
        aliases=program.aliases,
        resets=RESETS,
        presets=program.path.parent.name,
    )
    with arguments.usage_errors("sweep.py"):
        sweep = Sweep(program, args, values)
        migrate(sweep.root)
        if args.print:
            return sweep.print_commands()
        lock = locked(sweep.root)
    try:
        with lock:
            failed = sweep.run()
    except KeyboardInterrupt:
        sys.exit(130)
    if failed:
        print(f"{len(failed)} failed; the same command repeats them:", file=sys.stderr)
        print(*(f"  {name}: {why}" for name, why in failed.items()), sep="\n", file=sys.stderr)
        sys.exit(1)


class Sweep:
    """A grid of runs with their learning rates, to be run or printed.

    Arguments:
        program: The program of the runs.
        args: The options of the sweep.
        values: The values of each option that was given.

    Raises:
        ValueError: If the options of a run are wrong, or a value has no effect on any run.
    """

    def __init__(
        self, program: Program, args: SweepArguments, values: Mapping[str, list[Any]]
    ) -> None:
        if "resume_from_checkpoint" in values:
            raise ValueError("--resume_from_checkpoint: a sweep resumes its runs by itself")
        if args.learning_rates and "learning_rate" in values:
            raise ValueError("--learning_rate has no effect with --learning_rates")
        self.args = args
        self.root = Path(args.output_dir or f"runs/{program.path.parent.name}-sweep")
        self.grid = Grid(program, self.root, values)
        self.rates = LearningRates(
            self.grid, args.learning_rates, args.check_steps, args.check_betas, args.print
        )

    def run(self) -> dict[str, str]:
        """Runs the trials and the runs that are not finished.

        Returns the reasons of failures by the names of runs. Raises ``KeyboardInterrupt`` after
        Ctrl-C and SIGTERM.
        """
        failed: dict[str, str] = {}
        while trials := [trial for trial in self.rates.search()[0] if trial.name not in failed]:
            print(f"learning rates: {len(trials)} trials", flush=True)
            reasons = self.run_pool(trials, self.rates.search)
            nonfinite = {trial.name for trial in trials if trial.nonfinite}
            failed |= {name: why for name, why in reasons.items() if name not in nonfinite}
        failed |= self.rates.search()[1]
        sweep_runs = self.rates.runs()
        done = sum(run.finished for run in sweep_runs)
        print(f"{len(self.grid.runs)} runs, {done} of them finished, in {self.root}", flush=True)
        self.write_table()
        failed |= self.run_pool(sweep_runs, self.write_table)
        self.write_table()
        return failed

    def run_pool(
        self, sweep_runs: Sequence[SweepRun], on_finish: Callable[[], object]
    ) -> dict[str, str]:
        """Runs what is not finished and calls ``on_finish`` after each; returns the failures."""

        def finish(run: SweepRun) -> None:
            self.remove_checkpoints(run)
            on_finish()

        for run in sweep_runs:  # those that ended after an earlier sweep had been killed
            if run.finished and not run.at_work:
                self.remove_checkpoints(run)
        try:
            return Pool(sweep_runs, self.args.jobs, finish).run()
        except KeyboardInterrupt:
            done = sum(run.finished for run in sweep_runs)
            print(f"stopped: {done} of {len(sweep_runs)} are finished; the same command resumes")
            raise

    def remove_checkpoints(self, run: SweepRun) -> None:
        """Removes the checkpoints of a finished run, unless they are to be kept."""
        for folder in () if self.args.keep_checkpoints else run.folder.glob("checkpoint-*"):
            shutil.rmtree(folder)

    def print_commands(self) -> None:
        """Prints a command for each trial and run that is neither finished nor at work."""
        (trials, failed), sweep_runs = self.rates.search(), self.rates.runs()
        missing = [run for run in sweep_runs if not run.finished]
        for run in trials + missing:
            if not run.at_work:
                print(run.shell_command())
        left = len(self.grid.runs) - len(sweep_runs) + len(missing)
        notes = [f"{len(trials)} trials of learning rates; call again after them"] if trials else []
        notes += [f"{left} of {len(self.grid.runs)} runs"]
        notes += [f"{name}: {why}" for name, why in failed.items()]
        print(*notes, sep="\n", file=sys.stderr)

    def write_table(self) -> None:
        """Writes the table of all finished runs in the folder."""
        losses = self.rates.losses_by_run()
        write_table(self.root, self.grid.defaults, self.grid.program.aliases, losses)


def locked(root: Path) -> AbstractContextManager[object]:
    """Locks the folder of a sweep; raises `ValueError` if another sweep is at work in it."""
    try:
        return FileLock(root / LOCK).acquire(blocking=False)
    except Timeout:
        message = f"another sweep is at work in {root}: wait until it has ended"
        raise ValueError(message) from None


def migrate(root: Path) -> None:
    """Gives the folders of a sweep by version 0.1 their new names."""
    for old, new in {"cells": "runs", "checks": "trials"}.items():
        for folder in (root / old).glob("*"):
            if not (root / new / folder.name).exists():
                (root / new).mkdir(exist_ok=True)
                folder.rename(root / new / folder.name)
        with suppress(OSError):  # missing, or not empty
            (root / old).rmdir()
    shutil.rmtree(root / "locks", ignore_errors=True)
