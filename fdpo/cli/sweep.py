"""Sweeps: a program's runs over a grid of its options, and one tidy table of what came of them.

Every option of the program may be given several values; a cell is one combination of them, run as
one process of the program in a folder of its own (:mod:`fdpo.cli.cells`). ``alpha`` and ``loss_args``
belong to losses that have such a parameter: other losses are run once for all their values.

**The learning rate.** With ``--learning_rate`` all cells have the rate that is given. With
``--learning_rates`` each method gets the best for itself at each strength (``beta``, ``kappa``), so
that none is judged at a bad one: everything that varies but the seed is trained for
``--check_steps`` updates with the first seed, and the rate of the least loss is taken, as
:mod:`fdpo.cli.learning_rates` says. With ``--check_betas`` this is done at these only, and the rates at
others lie on the power law through theirs.

A sweep's folder may take several sweeps, one after the other or at once: the table has all cells.
Cells are told apart by their options, not by what lies in the files and folders that these name:
other data under the same name need another folder.
"""

from __future__ import annotations

import hashlib
import json
import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from fdpo import runs
from fdpo.cli import arguments
from fdpo.cli.arguments import Words
from fdpo.cli.cells import Cell, Workers
from fdpo.cli.learning_rates import LearningRates, power_law
from fdpo.cli.tables import write_table
from fdpo.losses.config import RESETS
from fdpo.losses.names import loss_parameters
from fdpo.runs.locks import locked

STRENGTH = ("beta", "kappa")
Options = dict[str, Words]


@dataclass(frozen=True)
class Program:
    """The program that cells run.

    Arguments:
        path: Its file.
        types: The dataclasses of its options, a ``LossConfig`` among them.
        reference: The options that its data and its reference's numbers depend on.
        steps: The option that is the number of updates.
        check: The options of a learning-rate check, in which ``{steps}`` stands for its updates.
        check_figure: The figure in ``log.jsonl`` that is least at the best rate.
        aliases: Other names of its options.
    """

    path: Path
    types: tuple[type, ...]
    reference: tuple[str, ...]
    steps: str
    check: Mapping[str, str]
    check_figure: str
    aliases: Mapping[str, str] = field(default_factory=dict)


@dataclass
class SweepArguments:
    """Sweep."""

    output_dir: str | None = field(
        default=None, metadata={"help": "folder of the sweep; default: runs/PROGRAM-sweep"}
    )
    jobs: int = field(default=1, metadata={"help": "cells at a time, each on a GPU if there are"})
    learning_rates: list[float] = field(
        default_factory=list,
        metadata={"help": "rates to check first for each loss; default: --learning_rate for all"},
    )
    check_steps: int = field(
        default=50, metadata={"help": "updates of a check; best as many as a cell has"}
    )
    check_betas: list[float] = field(
        default_factory=list,
        metadata={
            "help": "check at these beta only; others get rates by the power law, or the one"
        },
    )
    print: bool = field(
        default=False, metadata={"help": "only print the commands of what is not finished"}
    )
    keep_checkpoints: bool = field(
        default=False, metadata={"help": "keep the checkpoints of finished cells"}
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
    "sigmoid jsd alpha --alpha 0.3 0.7 --beta 0.03 0.1 --seed 0 1 2: each combination is a cell, "
    "the first option varying slowest; a loss that takes no alpha is run once, not once for each "
    "alpha. An option that is a list is varied by giving it again. In the YAML file of --config "
    "several values are a list. Finished cells are skipped, interrupted ones go on, failed ones "
    "are tried again by the same command. With --learning_rates whatever varies but the seed is "
    "trained with each rate for --check_steps updates with the first seed, and with rates beyond "
    "them while the best is the smallest or the largest; its cells get the rate with the least "
    "{figure} over the second half; --check_betas limits this to some beta. OUTPUT_DIR/table.csv "
    "and .parquet hold a row for each finished cell."
)


def main(program: Program, argv: Sequence[str] | None = None) -> None:
    """Runs a sweep from the command line.

    Ends with status 0 if all cells are finished, 1 if some failed, 130 after Ctrl-C, 2 for a
    mistake in the options, which is found before any cell starts.

    Arguments:
        program: The program that cells run.
        argv: The command line; by default that of the process.
    """
    own, grid = arguments.parse_grid(
        SweepArguments,
        program.types,
        argv,
        program="sweep.py",
        description=HELP.format(program=program.path.name, figure=program.check_figure),
        aliases=program.aliases,
        resets=RESETS,
        presets=program.path.parent.name,
    )
    with arguments.usage_errors("sweep.py"):
        sweep = Sweep(program, own, grid)
    if own.print:
        sweep.print_commands()
        return
    try:
        failed = sweep.run()
    except KeyboardInterrupt:
        sys.exit(130)
    if failed:
        print(f"{len(failed)} failed; the same command tries them again:", file=sys.stderr)
        print(*(f"  {name}: {why}" for name, why in failed.items()), sep="\n", file=sys.stderr)
        sys.exit(1)


class Sweep:
    """The cells of a grid, in a folder.

    Arguments:
        program: The program that cells run.
        own: The sweep's own options.
        grid: The values of each option that was given.

    Raises:
        ValueError: If a cell's options are wrong, or one has no effect on any cell.
    """

    def __init__(
        self, program: Program, own: SweepArguments, grid: Mapping[str, list[Words]]
    ) -> None:
        self.program, self.own = program, own
        self.root = Path(own.output_dir or f"runs/{program.path.parent.name}-sweep")
        self.read = arguments.reader(program.types, program.aliases)
        self.defaults = arguments.resolved(*self.read([]))
        if "resume_from_checkpoint" in grid:
            raise ValueError("--resume_from_checkpoint: a sweep goes on by itself")
        if own.learning_rates and "learning_rate" in grid:
            raise ValueError("--learning_rate has no effect with --learning_rates")
        combinations = [dict(zip(grid, values, strict=True)) for values in product(*grid.values())]
        kept = [without_effect(options, self.defaults["loss"]) for options in combinations]
        # Combinations that are one cell, such as 0.5 and 5e-1, have one name; the first stays.
        named = {self.cell(options).name: options for options in reversed(kept)}
        self.options = list(reversed(named.values()))
        require_used(grid, kept)
        self.rates = LearningRates(self.root, own.learning_rates, program.check_figure)
        for options in self.options if own.learning_rates else ():
            # The first cell of a method has the first seed.
            for checked in self.checked_options(options).values():
                self.rates.methods.setdefault(self.method(checked), partial(self.check, checked))
        for check in self.rates.methods.values():
            check(own.learning_rates[0])  # raises what is wrong with it

    def cell(self, options: Options, kind: str = "cells") -> Cell:
        """Returns the cell of a combination of options; raises what the program would."""
        parsed = arguments.resolved(*self.read(command_line(options)))
        name = f"{label(parsed)}-{digest(self._identity(options, parsed))}"
        return Cell(
            root=self.root,
            kind=kind,
            name=name,
            program=self.program.path,
            options=tuple(command_line(options)),
            reference=digest([str(parsed[name]) for name in self.program.reference]),
            environment=tracking(parsed.get("report_to"), self.root.name, name),
        )

    def _identity(self, options: Options, parsed: Mapping[str, Any]) -> dict[str, str]:
        """Returns what makes a run another run: given, not the default, and not harmless."""
        return {
            name: str(parsed[name])
            for name in sorted(options)
            if parsed[name] != self.defaults[name] and runs.changes_metrics(name)
        }

    def method(self, options: Options) -> str:
        """Returns the name of a cell's method and strength with the check that it is given."""
        kept = {k: v for k, v in options.items() if k != "seed"}
        parsed = arguments.resolved(*self.read(command_line(kept)))
        rule = [self.own.learning_rates, self.own.check_steps]
        strength = "".join(f"-{name}{parsed[name]:g}" for name in STRENGTH if name in kept)
        return f"{loss_label(parsed)}{strength}-{digest([self._identity(kept, parsed), rule])}"

    def checked_options(self, options: Options) -> dict[float, Options]:
        """Returns the options, by beta, that a cell's learning rate is checked with."""
        beta = self.beta(options)
        if not self.own.check_betas or beta in self.own.check_betas:
            return {beta: options}
        return {beta: {**options, "beta": (f"{beta:.12g}",)} for beta in self.own.check_betas}

    def beta(self, options: Options) -> float:
        """Returns the beta of a cell."""
        return float(arguments.resolved(*self.read(command_line(options)))["beta"])

    def check(self, options: Options, rate: float) -> Cell:
        """Returns the check of a learning rate for a method, of which this is the first cell."""
        steps = str(self.own.check_steps)
        options = {**options, "learning_rate": (str(rate),), self.program.steps: (steps,)}
        options |= {k: (v.format(steps=steps),) for k, v in self.program.check.items()}
        return self.cell(options, "checks")

    # --- running ---

    def run(self) -> dict[str, str]:
        """Runs the checks and the cells that are not finished; returns why others failed.

        Raises:
            KeyboardInterrupt: If Ctrl-C or SIGTERM stopped it; the same call goes on.
        """
        workers = Workers(self.own.jobs, keep_checkpoints=self.own.keep_checkpoints)
        failed: dict[str, str] = {}
        while checks := [cell for cell in self.rates.left() if cell.name not in failed]:
            print(f"learning rates: {len(checks)} checks", flush=True)
            found = self._work(workers, checks, self.rates.choose)  # kept, if it is stopped
            diverged = {cell.name for cell in checks if cell.diverged}
            failed |= {name: why for name, why in found.items() if name not in diverged}
        failed |= self.rates.choose()
        cells = self.cells()
        done = sum(cell.finished for cell in cells)
        print(f"{len(self.options)} cells, {done} of them finished, in {self.root}", flush=True)
        self.write_table()
        failed |= self._work(workers, cells, self.write_table)
        self.write_table()
        return failed

    def _work(
        self, workers: Workers, cells: Sequence[Cell], finished: Callable[[], object]
    ) -> dict[str, str]:
        failed = workers.run(cells, finished)
        if workers.stopped:
            done = sum(cell.finished for cell in cells)
            print(f"stopped: {done} of {len(cells)} are finished; the same command goes on")
            raise KeyboardInterrupt
        return failed

    def cells(self) -> list[Cell]:
        """Returns the cells; of methods whose learning rate is checked, those that have one."""
        if not self.rates.methods:
            return [self.cell(options) for options in self.options]
        chosen, cells, noted = self.rates.chosen(), [], {}
        for options in self.options:
            methods = {
                beta: self.method(one) for beta, one in self.checked_options(options).items()
            }
            if chosen.keys() >= set(methods.values()):
                rates = {b: chosen[method]["learning_rate"] for b, method in methods.items()}
                beta = self.beta(options)
                rate = rates[beta] if beta in rates else power_law(rates, beta)
                cells.append(cell := self.cell(options | {"learning_rate": (str(rate),)}))
                noted[cell.name] = list(methods.values())
        self.rates.note(noted)
        return cells

    def print_commands(self) -> None:
        """Prints a command for each check and cell that is not finished, as far as rates are known.

        Those that a sweep is at work on are left out.
        """
        without = self.rates.choose()
        checks, cells = self.rates.left(), self.cells()
        left = [cell for cell in cells if not cell.finished]
        for cell in checks + left:
            if not cell.at_work:
                print(cell.printed())
        if checks:
            print(f"{len(checks)} checks of learning rates; call again after them", file=sys.stderr)
        open_ = len(self.options) - len(cells) + len(left)
        print(f"{open_} of {len(self.options)} cells", file=sys.stderr)
        for name, why in without.items():
            print(f"{name}: {why}", file=sys.stderr)

    def write_table(self) -> None:
        """Writes the table of all cells in the folder (:func:`fdpo.cli.tables.write_table`)."""
        with locked(self.root / "locks" / "table"):
            write_table(self.root, self.defaults, self.rates.of_cells())


def without_effect(options: Options, default_loss: str) -> Options:
    """Returns the options without ``alpha`` and ``loss_args`` where the loss has no such."""
    loss = options.get("loss", (default_loss,))[0]
    known = set(loss_parameters(loss))

    def applies(name: str, words: Words) -> bool:
        if name == "loss_args":
            return not known.isdisjoint(parameter_names(words[0]))
        return name != "alpha" or name in known

    return {name: words for name, words in options.items() if applies(name, words)}


def parameter_names(loss_args: str) -> Iterable[str]:
    """Returns the names in ``--loss_args``, and raises ``ValueError`` where there are none."""
    try:
        return json.loads(loss_args).keys()
    except (ValueError, AttributeError):
        raise ValueError(f"--loss_args: a JSON object is expected, found {loss_args!r}") from None


def require_used(grid: Mapping[str, list[Words]], cells: Sequence[Options]) -> None:
    """Raises ``ValueError`` for a value that no cell has."""
    for name, values in grid.items():
        used = {options[name] for options in cells if name in options}
        if unused := [words for words in values if words not in used]:
            raise ValueError(f"--{name} {' '.join(unused[0])}: no loss of the grid takes it")


def command_line(options: Options) -> list[str]:
    """Returns the options as words of a command."""
    words = []
    for name, values in options.items():
        words += [f"--{name}={values[0]}"] if len(values) == 1 else [f"--{name}", *values]
    return words


def digest(value: Any) -> str:
    """Returns ten hexadecimal digits that tell values apart."""
    return hashlib.blake2b(json.dumps(value).encode(), digest_size=5).hexdigest()


def loss_label(parsed: Mapping[str, Any]) -> str:
    """Returns the loss and its alpha, fit for a file's name."""
    alpha = "" if parsed["alpha"] is None else f"-{parsed['alpha']:g}"
    return runs.file_name(parsed["loss"] + alpha)[:40]


def label(parsed: Mapping[str, Any]) -> str:
    """Returns what a reader tells cells by, fit for a file's name."""
    rate = f"lr{parsed['learning_rate']:g}"
    return f"{loss_label(parsed)}-beta{parsed['beta']:g}-{rate}-seed{parsed['seed']}"


def tracking(report_to: Any, group: str, name: str) -> dict[str, str]:
    """Returns the variables that make a cell a run of the sweep's group in wandb."""
    trackers = report_to.split(",") if isinstance(report_to, str) else report_to or ()
    if not {"wandb", "all"} & set(trackers):
        return {}
    return {"WANDB_RUN_GROUP": group, "WANDB_NAME": name}
