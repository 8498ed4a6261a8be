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
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from statistics import linear_regression
from typing import Any

from fdpo import runs
from fdpo.cli.pool import SweepRun

FILE = "learning_rates.json"
MAX_TRIALS = 8  # of a method


class LearningRates:
    """The trials of learning rates in a sweep's folder, and the choices.

    Arguments:
        root: The sweep's folder.
        rates: The rates to try first.
        metric: The metric in ``log.jsonl`` that is least at the best rate.
        read_only: True to write no choices to the folder.

    Attributes:
        methods: A function from a rate to a method's trial, by the method's name.
    """

    def __init__(
        self, root: Path, rates: Sequence[float], metric: str, read_only: bool = False
    ) -> None:
        self.root, self.rates, self.metric, self.read_only = root, sorted(rates), metric, read_only
        self.methods: dict[str, Callable[[float], SweepRun]] = {}

    @cached_property
    def choices(self) -> dict[str, Any]:
        """The choices by method."""
        return read_choices(self.root)

    def search(self) -> tuple[list[SweepRun], dict[str, str]]:
        """Saves the best rates of methods whose trials have ended.

        Returns the trials of the others that have not ended, and why methods have no rate although
        all their trials have.
        """
        missing, failed = [], {}
        for method in [method for method in self.methods if method not in self.choices]:
            trials, losses = self._trials(method)
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
                "metric": self.metric,
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

    def record(self, methods: Mapping[str, Iterable[str]]) -> None:
        """Saves the names of the methods that each run has its rate from, by the run's name."""
        for run, names in methods.items():
            for choice in (self.choices[name] for name in names):
                choice["runs"] = sorted({*choice["runs"], run})
        self._save()

    def losses_by_run(self) -> dict[str, str]:
        """Returns the losses behind each run's rate by method, as JSON."""
        losses: dict[str, dict[str, Any]] = {}
        for method, choice in self.choices.items():
            for run in choice["runs"]:
                losses.setdefault(run, {})[method] = choice["losses"]
        return {run: json.dumps(by_method) for run, by_method in losses.items()}

    def _trials(self, method: str) -> tuple[dict[float, SweepRun], dict[float, float]]:
        """Returns a method's trials and, if none is missing, the losses from the smallest rate."""
        trials = {rate: self.methods[method](rate) for rate in self.rates}
        while all(map(ended, trials.values())):
            losses = {rate: self._loss(trial) for rate, trial in sorted(trials.items())}
            rate = beyond(losses)
            if rate is None or len(trials) == MAX_TRIALS:
                return trials, losses
            trials[rate] = self.methods[method](rate)
        return trials, {}

    def _loss(self, trial: SweepRun) -> float:
        loss = mean_metric(trial.folder / runs.LOG, self.metric) if trial.finished else math.inf
        return loss if math.isfinite(loss) else math.inf

    def _save(self) -> None:
        if self.choices and not self.read_only:
            runs.write_json(self.root / FILE, self.choices)


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
    return sum(values) / len(values) if values else math.nan
