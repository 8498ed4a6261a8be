"""Search for the learning rate of each method in a sweep, by short trials.

Each method (a loss with its parameters, at a beta) is trained with the given rates and, as long as
the best is the smallest or the largest of them, with the next one beyond it. The best rate has the
least mean loss over the second half of the updates: for text the loss on held-out pairs; for images
that of the training pairs, which within the first epoch the model has not seen either. The losses
of one method on the same pairs may be compared, those of two may not. A rate at which training
diverges is the worst; a trial that fails otherwise is repeated by the next sweep.

``learning_rates.json`` holds the choices. Later sweeps with the same rates and updates use them,
whatever seeds they add. A short trial favours large rates; one as long as the runs does not.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from statistics import linear_regression
from typing import Any

from fdpo import runs
from fdpo.cli.grid import Grid, Options, digest, loss_label
from fdpo.cli.pool import SweepRun

FILE = "learning_rates.json"
MAX_TRIALS = 8  # of a method


class LearningRates:
    """The learning rate of each run of a grid, by trials in the sweep's folder.

    Arguments:
        grid: The grid.
        rates: The rates to try first; without any, each run keeps its own.
        steps: The number of updates of a trial.
        betas: The betas with trials, by default those of the grid; others follow a power law.
        read_only: True to write no choices to the folder.

    Attributes:
        trials: A function from a rate to a method's trial, by the method's name.
        methods: For each run of the grid the methods that give it its rate, by beta.
    """

    def __init__(
        self,
        grid: Grid,
        rates: Sequence[float],
        steps: int,
        betas: Sequence[float] = (),
        read_only: bool = False,
    ) -> None:
        self.grid, self.rates, self.steps, self.betas = grid, rates, steps, betas
        self.read_only = read_only
        self.trials: dict[str, Callable[[float], SweepRun]] = {}
        self.methods = [self._methods(run.options) for run in grid.runs] if rates else []
        for trial in self.trials.values():
            trial(rates[0])  # raises what is wrong with it

    @cached_property
    def choices(self) -> dict[str, Any]:
        """The choices by method."""
        return read_choices(self.grid.root)

    def runs(self) -> list[SweepRun]:
        """Returns the runs of the grid whose rates are known, and saves which methods these are of.

        Without rates to try these are all runs.
        """
        if not self.rates:
            return self.grid.runs
        known = []
        for run, methods in zip(self.grid.runs, self.methods, strict=True):
            if not self.choices.keys() >= set(methods.values()):
                continue
            choices = {at: self.choices[method] for at, method in methods.items()}
            rates = {at: choice["learning_rate"] for at, choice in choices.items()}
            beta = self._beta(run.options)
            rate = rates[beta] if beta in rates else power_law(rates, beta)
            known.append(self.grid.new_run({**run.options, "learning_rate": rate}))
            for choice in choices.values():
                choice["runs"] = sorted({*choice["runs"], known[-1].name})
        self._save()
        return known

    def search(self) -> tuple[list[SweepRun], dict[str, str]]:
        """Saves the best rates of methods whose trials have ended.

        Returns the trials of the others that have not ended, and why methods have no rate although
        all their trials have.
        """
        missing, failed = [], {}
        for method in [method for method in self.trials if method not in self.choices]:
            trials, losses = self._losses(method)
            missing += [trial for trial in trials.values() if not ended(trial)]
            if not losses:
                continue
            best = min(losses, key=losses.__getitem__)
            if losses[best] == math.inf:
                failed[method] = f"diverges at every learning rate ({described(losses)})"
                continue
            at_edge = beyond(losses) is not None
            choice = {
                "learning_rate": best,
                "losses": {f"{r:g}": x if x < math.inf else None for r, x in losses.items()},
                "metric": self.grid.program.trial_metric,
                "at_edge": at_edge,
                "runs": [],
                "trials": [str(trials[rate].folder) for rate in losses],
            }
            self.choices = {method: choice, **self.choices}
            self._save()
            edge = "; at the edge of the rates tried" if at_edge else ""
            # To stderr: stdout has the commands of --print.
            print(f"{method}: learning rate {best:g} ({described(losses)}{edge})", file=sys.stderr)
        return missing, failed

    def losses_by_run(self) -> dict[str, str]:
        """Returns the losses behind each run's rate by method, as JSON."""
        losses: dict[str, dict[str, Any]] = {}
        for method, choice in self.choices.items():
            for run in choice["runs"]:
                losses.setdefault(run, {})[method] = choice["losses"]
        return {run: json.dumps(by_method) for run, by_method in losses.items()}

    def _beta(self, options: Options) -> float:
        return options.get("beta", self.grid.defaults["beta"])

    def _methods(self, options: Options) -> dict[float, str]:
        """Registers the methods whose trials give a run its rate; returns their names by beta."""
        beta, names = self._beta(options), {}
        for at in self.betas if self.betas and beta not in self.betas else [beta]:
            trial = options if at == beta else {**options, "beta": at}
            names[at] = self._name(trial)
            # The first run of a method has the first seed.
            self.trials.setdefault(names[at], partial(self._trial, trial))
        return names

    def _name(self, options: Options) -> str:
        """Returns the name of the method of a run and of its trials."""
        options = {name: value for name, value in options.items() if name != "seed"}
        resolved = self.grid.resolve(options)
        betas = "".join(f"-{k}{resolved[k]:g}" for k in ("beta", "kappa") if k in options)
        rule = [self.rates, self.steps]
        return f"{loss_label(resolved)}{betas}-{digest([self.grid.identity(options), rule])}"

    def _trial(self, options: Options, rate: float) -> SweepRun:
        """Returns the trial of a learning rate with the options of a run."""
        options = {**options, "learning_rate": rate}
        return self.grid.new_run({**options, **self.grid.program.trial(self.steps)}, "trials")

    def _losses(self, method: str) -> tuple[dict[float, SweepRun], dict[float, float]]:
        """Returns a method's trials and, if none is missing, the losses from the smallest rate."""
        trials = {rate: self.trials[method](rate) for rate in sorted(self.rates)}
        while all(map(ended, trials.values())):
            losses = {rate: self._loss(trial) for rate, trial in sorted(trials.items())}
            rate = beyond(losses)
            if rate is None or len(trials) == MAX_TRIALS:
                return trials, losses
            trials[rate] = self.trials[method](rate)
        return trials, {}

    def _loss(self, trial: SweepRun) -> float:
        log, metric = trial.folder / runs.LOG, self.grid.program.trial_metric
        loss = mean_metric(log, metric) if trial.finished else math.inf
        return loss if math.isfinite(loss) else math.inf

    def _save(self) -> None:
        if self.choices and not self.read_only:
            runs.write_json(self.grid.root / FILE, self.choices)


def read_choices(root: Path) -> dict[str, Any]:
    """Returns the choices in a sweep's folder by method; also those of an older version."""
    keys = {"figure": "metric", "cells": "runs", "checks": "trials"}
    choices = runs.read_json(root / FILE) if (root / FILE).exists() else {}
    choices = {m: {keys.get(k, k): v for k, v in choice.items()} for m, choice in choices.items()}
    for choice in choices.values():
        choice["trials"] = [path.replace("/checks/", "/trials/") for path in choice["trials"]]
    return choices


def ended(trial: SweepRun) -> bool:
    """Returns whether the loss at a trial's rate is known."""
    return trial.finished or trial.nonfinite


def beyond(losses: Mapping[float, float]) -> float | None:
    """Returns the rate to try next: beyond the best one, by the step to its neighbour.

    ``None`` if the best is neither the smallest nor the largest, or the only one.

    Arguments:
        losses: The losses by rate, infinite where training diverged.
    """
    rates = sorted(losses)
    best = rates.index(min(rates, key=lambda rate: losses[rate]))
    if len(rates) == 1 or 0 < best < len(rates) - 1:
        return None
    neighbour = rates[1] if best == 0 else rates[-2]
    return float(f"{rates[best] ** 2 / neighbour:.6g}")


def power_law(rates: Mapping[float, float], beta: float) -> float:
    """Returns the rate at a beta, on the least-squares line through the logarithms of known ones.

    While a link is straight, a margin moves by the rate times beta, so the best rate falls with
    beta; the known rates tell how fast.

    Arguments:
        rates: The known rates by beta; a single one holds at every beta.
        beta: The beta of the rate to return.
    """
    x, y = ([math.log(value) for value in values] for values in (rates, rates.values()))
    slope, intercept = linear_regression(x, y) if len(x) > 1 else (0.0, y[0])
    return float(f"{math.exp(intercept + slope * math.log(beta)):.3g}")


def described(losses: Mapping[float, float]) -> str:
    """Returns rates with their losses, for a reader."""
    return ", ".join(f"{rate:g}: {loss:.4g}" for rate, loss in losses.items())


def mean_metric(log: Path, metric: str) -> float:
    """Returns the mean of a metric over the second half of a log's steps; NaN without any."""
    with log.open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    last = max((row["step"] for row in rows), default=0)
    values = [row[metric] for row in rows if metric in row and row["step"] > last / 2]
    known = [math.nan if value is None else value for value in values]  # NaN is null in JSON
    return sum(known) / len(known) if known else math.nan
