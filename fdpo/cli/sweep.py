"""Sweeps: a program's runs over a grid of its options, and one table of their results.

A run is one combination of the options' values (:mod:`fdpo.cli.pool` runs it). ``alpha`` and
``loss_args`` apply to losses with such a parameter; another loss is run once for all their values.

With ``--learning_rates`` each method gets its best learning rate at each beta, so that none is
judged at a bad one: every combination of the other options is trained with the first seed for
``--check_steps`` updates (:mod:`fdpo.cli.learning_rates`). With ``--check_betas`` this is done at
these betas only, and rates at others follow a power law.

A folder may take one sweep after the other; the table has all their runs. Runs differ by their
options, not by the contents of the files that these name: other data need another name or folder.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from fdpo import runs
from fdpo.cli import arguments
from fdpo.cli.learning_rates import LearningRates, power_law
from fdpo.cli.pool import Pool, SweepRun, option_text
from fdpo.cli.table import write_table
from fdpo.losses.config import RESETS
from fdpo.losses.names import loss_parameters

LOCK = "sweep.lock"  # held while a sweep is at work in a folder
Options = Mapping[str, Any]
Grid = Mapping[str, list[Any]]


@dataclass(frozen=True)
class Program:
    """The program of a sweep.

    Arguments:
        path: Its file.
        types: The dataclasses of its options, a ``LossConfig`` among them.
        reference: The options that its data and its reference's numbers depend on.
        trial: A function from a number of updates to the options of a learning-rate trial.
        trial_metric: The metric in ``log.jsonl`` that is least at the best rate.
        aliases: Other names of its options.
        former_names: Old names of renamed options, which the names of runs are still made of.
    """

    path: Path
    types: tuple[type, ...]
    reference: tuple[str, ...]
    trial: Callable[[int], Options]
    trial_metric: str
    aliases: Mapping[str, str] = field(default_factory=dict)
    former_names: Mapping[str, str] = field(default_factory=dict)


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
        for name in ("jobs", "check_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name} must be at least 1, got {getattr(self, name)}")
        for name in ("learning_rates", "check_betas"):
            values = getattr(self, name)
            if not all(0 < value < math.inf for value in values):
                raise ValueError(f"--{name} must be above 0, got {values}")
        if self.check_betas and not self.learning_rates:
            raise ValueError("--check_betas has no effect without --learning_rates")
        if self.output_dir is not None and Path(self.output_dir).is_file():
            raise ValueError(f"--output_dir {self.output_dir}: is a file, a folder is needed")


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
    args, grid = arguments.parse_grid(
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
        sweep = Sweep(program, args, grid)
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
    """The runs of a grid, in a folder.

    Arguments:
        program: The program of the runs.
        args: The options of the sweep.
        grid: The values of each option that was given.

    Raises:
        ValueError: If the options of a run are wrong, or a value has no effect on any run.
    """

    def __init__(self, program: Program, args: SweepArguments, grid: Grid) -> None:
        self.program, self.args = program, args
        self.root = Path(args.output_dir or f"runs/{program.path.parent.name}-sweep")
        self.build = arguments.builder(program.types)
        self.defaults = self.resolve({})
        if "resume_from_checkpoint" in grid:
            raise ValueError("--resume_from_checkpoint: a sweep resumes its runs by itself")
        if args.learning_rates and "learning_rate" in grid:
            raise ValueError("--learning_rate has no effect with --learning_rates")
        products = (dict(zip(grid, values, strict=True)) for values in product(*grid.values()))
        combinations = [self.applicable(options) for options in products]
        by_name = {run.name: run for run in map(self.new_run, combinations)}
        self.grid_runs = list(by_name.values())
        for name, values in grid.items():
            used = [options[name] for options in combinations if name in options]
            for value in (value for value in values if value not in used):
                raise ValueError(f"--{name} {option_text(value)}: no loss of the grid takes it")
        self.rates = LearningRates(
            self.root, args.learning_rates, program.trial_metric, read_only=args.print
        )
        self.methods = [self.trial_methods(run.options) for run in self.grid_runs]
        for trial in self.rates.methods.values():
            trial(args.learning_rates[0])  # raises what is wrong with it

    def resolve(self, options: Options) -> dict[str, Any]:
        """Returns the values of all options of a run; raises what the program would."""
        return arguments.resolved(*self.build(options))

    def applicable(self, options: Options) -> Options:
        """Returns the options without ``alpha`` and ``loss_args`` where the loss has no such."""
        parameters = set(loss_parameters(options.get("loss", self.defaults["loss"])))
        names = {"alpha": {"alpha"}, "loss_args": set(options.get("loss_args") or ())}
        return {k: v for k, v in options.items() if k not in names or parameters & names[k]}

    def new_run(self, options: Options, kind: str = "runs") -> SweepRun:
        """Returns the run of a combination of options."""
        resolved = self.resolve(options)
        rate = f"lr{resolved['learning_rate']:g}"
        label = f"{loss_label(resolved)}-beta{resolved['beta']:g}-{rate}-seed{resolved['seed']}"
        name = f"{label}-{digest(self.identity(options, resolved))}"
        return SweepRun(
            root=self.root,
            name=name,
            kind=kind,
            program=self.program.path,
            options=options,
            reference=digest([str(resolved[name]) for name in self.program.reference]),
            environment=tracking(resolved.get("report_to"), self.root.name, name),
        )

    def identity(self, options: Options, resolved: Options) -> dict[str, str]:
        """Returns what tells runs apart: given options that differ from the default in effect."""
        values = {
            self.program.former_names.get(name, name): str(resolved[name])
            for name in options
            if resolved[name] != self.defaults[name] and runs.changes_metrics(name)
        }
        return dict(sorted(values.items()))

    def trial_methods(self, options: Options) -> dict[float, str]:
        """Registers the methods whose trials give a run its rate; returns their names by beta."""
        if not self.args.learning_rates:
            return {}
        beta, betas = options.get("beta", self.defaults["beta"]), self.args.check_betas
        names = {}
        for at in betas if betas and beta not in betas else [beta]:
            trial = options if at == beta else {**options, "beta": at}
            names[at] = self.method_name(trial)
            # The first run of a method has the first seed.
            self.rates.methods.setdefault(names[at], partial(self.trial, trial))
        return names

    def method_name(self, options: Options) -> str:
        """Returns the name of the method of a run and of its trials."""
        options = {name: value for name, value in options.items() if name != "seed"}
        resolved = self.resolve(options)
        rule = [self.args.learning_rates, self.args.check_steps]
        betas = "".join(f"-{k}{resolved[k]:g}" for k in ("beta", "kappa") if k in options)
        identity = self.identity(options, resolved)
        return f"{loss_label(resolved)}{betas}-{digest([identity, rule])}"

    def trial(self, options: Options, rate: float) -> SweepRun:
        """Returns the trial of a learning rate with the options of a run."""
        options = {**options, "learning_rate": rate}
        return self.new_run({**options, **self.program.trial(self.args.check_steps)}, "trials")

    def runs(self) -> list[SweepRun]:
        """Returns the runs, without those whose learning rate is not known yet."""
        if not self.args.learning_rates:
            return self.grid_runs
        sweep_runs, methods = [], {}
        for run, names in zip(self.grid_runs, self.methods, strict=True):
            if self.rates.choices.keys() >= set(names.values()):
                rates = {at: self.rates.choices[m]["learning_rate"] for at, m in names.items()}
                beta = run.options.get("beta", self.defaults["beta"])
                rate = rates[beta] if beta in rates else power_law(rates, beta)
                sweep_runs.append(self.new_run({**run.options, "learning_rate": rate}))
                methods[sweep_runs[-1].name] = names.values()
        self.rates.record(methods)
        return sweep_runs

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
        sweep_runs = self.runs()
        done = sum(run.finished for run in sweep_runs)
        print(f"{len(self.grid_runs)} runs, {done} of them finished, in {self.root}", flush=True)
        self.write_table()
        failed |= self.run_pool(sweep_runs, self.write_table)
        self.write_table()
        return failed

    def run_pool(
        self, sweep_runs: Sequence[SweepRun], on_finish: Callable[[], object]
    ) -> dict[str, str]:
        """Runs what is not finished and calls ``on_finish`` after each; returns the failures."""

        def finish(run: SweepRun) -> None:
            for folder in () if self.args.keep_checkpoints else run.folder.glob("checkpoint-*"):
                shutil.rmtree(folder)
            on_finish()

        try:
            return Pool(sweep_runs, self.args.jobs, finish).run()
        except KeyboardInterrupt:
            done = sum(run.finished for run in sweep_runs)
            print(f"stopped: {done} of {len(sweep_runs)} are finished; the same command resumes")
            raise

    def print_commands(self) -> None:
        """Prints a command for each trial and run that is neither finished nor at work."""
        (trials, failed), sweep_runs = self.rates.search(), self.runs()
        missing = [run for run in sweep_runs if not run.finished]
        for run in trials + missing:
            if not run.at_work:
                print(run.shell_command())
        left = len(self.grid_runs) - len(sweep_runs) + len(missing)
        notes = [f"{len(trials)} trials of learning rates; call again after them"] if trials else []
        notes += [f"{left} of {len(self.grid_runs)} runs"]
        notes += [f"{name}: {why}" for name, why in failed.items()]
        print(*notes, sep="\n", file=sys.stderr)

    def write_table(self) -> None:
        """Writes the table of all finished runs in the folder."""
        losses = self.rates.losses_by_run()
        write_table(self.root, self.defaults, self.program.aliases, losses)


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


def digest(value: Any) -> str:
    """Returns ten hexadecimal digits that tell values apart."""
    return hashlib.blake2b(json.dumps(value).encode(), digest_size=5).hexdigest()


def loss_label(resolved: Options) -> str:
    """Returns the loss and its alpha, fit for a file's name."""
    alpha = "" if resolved["alpha"] is None else f"-{resolved['alpha']:g}"
    return runs.file_name(resolved["loss"] + alpha)[:40]


def tracking(report_to: Any, group: str, name: str) -> dict[str, str]:
    """Returns the variables that make a run one of the sweep's group in wandb."""
    trackers = report_to.split(",") if isinstance(report_to, str) else report_to or ()
    if not {"wandb", "all"} & set(trackers):
        return {}
    return {"WANDB_RUN_GROUP": group, "WANDB_NAME": name}
