"""Grids of a program's options: their combinations as runs, each with a name by its options.

``alpha`` and ``loss_args`` apply to losses with such a parameter; another loss is run once for all
their values. Runs differ by their options, not by the contents of the files that these name.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

from fdpo import runs
from fdpo.cli import arguments
from fdpo.cli.pool import SweepRun, option_text
from fdpo.losses.names import loss_parameters

Options = Mapping[str, Any]


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


class Grid:
    """The combinations of options as runs in a sweep's folder.

    Arguments:
        program: The program of the runs.
        root: The sweep's folder.
        values: The values of each option that was given; the first option varies slowest.

    Attributes:
        runs: The runs.
        defaults: The program's options by default.

    Raises:
        ValueError: If the options of a run are wrong, or a value has no effect on any run.
    """

    def __init__(self, program: Program, root: Path, values: Mapping[str, list[Any]]) -> None:
        self.program, self.root = program, root
        self.build = arguments.builder(program.types)
        self.defaults = self.resolve({})
        products = (dict(zip(values, one, strict=True)) for one in product(*values.values()))
        combinations = [self._applicable(options) for options in products]
        self.runs = list({run.name: run for run in map(self.new_run, combinations)}.values())
        for name, given in values.items():
            used = [options[name] for options in combinations if name in options]
            for value in (value for value in given if value not in used):
                raise ValueError(f"--{name} {option_text(value)}: no loss of the grid takes it")

    def resolve(self, options: Options) -> dict[str, Any]:
        """Returns the values of all options of a run; raises what the program would."""
        return arguments.resolved(*self.build(options))

    def new_run(self, options: Options, kind: str = "runs") -> SweepRun:
        """Returns the run of a combination of options."""
        resolved = self.resolve(options)
        label = f"{loss_label(resolved)}-beta{resolved['beta']:g}-lr{resolved['learning_rate']:g}"
        name = f"{label}-seed{resolved['seed']}-{digest(self.identity(options))}"
        return SweepRun(
            root=self.root,
            name=name,
            kind=kind,
            program=self.program.path,
            options=options,
            reference=digest([str(resolved[name]) for name in self.program.reference]),
            environment=tracking(resolved.get("report_to"), self.root.name, name),
        )

    def identity(self, options: Options) -> dict[str, str]:
        """Returns what tells runs apart: given options that differ from the default in effect."""
        resolved = self.resolve(options)
        values = {
            self.program.former_names.get(name, name): str(resolved[name])
            for name in options
            if resolved[name] != self.defaults[name] and runs.changes_metrics(name)
        }
        return dict(sorted(values.items()))

    def _applicable(self, options: Options) -> Options:
        """Returns the options without ``alpha`` and ``loss_args`` where the loss has no such."""
        parameters = set(loss_parameters(options.get("loss", self.defaults["loss"])))
        names = {"alpha": {"alpha"}, "loss_args": set(options.get("loss_args") or ())}
        return {k: v for k, v in options.items() if k not in names or parameters & names[k]}


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
