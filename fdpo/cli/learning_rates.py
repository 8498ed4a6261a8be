"""The learning rate of each method in a sweep, by short trainings with several rates.

Each method (a loss with its parameters, at a strength) is trained with the rates that are given,
and, as long as the best is the smallest or the largest of them, with the next one beyond it. Best
is the least mean loss over the second half of the updates: for text the loss on held-out pairs; for
images that of the pairs trained on, which within the first epoch the model has not seen either,
each rate with the same pairs, times and noise. The losses of one method on the same pairs may be
compared, those of two may not. A rate at which training diverges is the worst; a check that fails
otherwise is tried again by the next call.

Where only some strengths are checked, a method's rates at others lie on the power law through those
(:func:`power_law`): while a link is straight, a margin moves by the rate times beta, so that the
best rate falls with beta; how fast, the checks say.

The choice is kept in ``learning_rates.json``: later calls with the same rates and updates keep to
it, whatever seeds they add. A short check favours large rates; one as long as the cells does not.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fdpo import runs
from fdpo.cli.cells import Cell
from fdpo.runs.locks import locked

FILE = "learning_rates.json"
MOST = 8
"""Rates that are checked of a method."""


class LearningRates:
    """The checks of learning rates in a sweep's folder, and what was chosen.

    Arguments:
        root: The sweep's folder.
        rates: The rates to check first.
        figure: The figure in ``log.jsonl`` that is least at the best rate.

    Attributes:
        methods: What makes a method's check of a rate, by the method's name.
    """

    def __init__(self, root: Path, rates: Sequence[float], figure: str) -> None:
        self.root, self.rates, self.figure = root, rates, figure
        self.methods: dict[str, Callable[[float], Cell]] = {}

    def checks(self, method: str) -> dict[float, Cell]:
        """Returns the checks of a method by their rates, as far as finished ones ask for more."""
        check = self.methods[method]
        checks = {rate: check(rate) for rate in sorted(self.rates)}
        while len(checks) < MOST and all(map(ended, checks.values())):
            rate = beyond(self.losses(checks))
            if rate is None:
                break
            checks[rate] = check(rate)
        return checks

    def losses(self, checks: Mapping[float, Cell]) -> dict[float, float]:
        """Returns the losses of checks that have ended, by their rates from the smallest."""
        return {rate: self.loss(cell) for rate, cell in sorted(checks.items())}

    def loss(self, check: Cell) -> float:
        """Returns the loss of a check that has ended, infinite if it is not finite."""
        if check.diverged:
            return math.inf
        loss = mean_figure(check.folder / "log.jsonl", self.figure)
        return loss if math.isfinite(loss) else math.inf

    def left(self) -> list[Cell]:
        """Returns the checks that have not ended, of methods without a rate."""
        chosen = self.chosen()
        checks = (c for m in self.methods if m not in chosen for c in self.checks(m).values())
        return [cell for cell in checks if not ended(cell)]

    def choose(self) -> dict[str, str]:
        """Chooses the rates of the methods whose checks have ended, and keeps them.

        Returns why there is none, by the names of methods that diverge at every rate.
        """
        without = {}
        for method in [method for method in self.methods if method not in self.chosen()]:
            checks = self.checks(method)
            if all(map(ended, checks.values())):
                losses = self.losses(checks)
                if min(losses.values()) < math.inf:
                    self._keep(method, checks, losses)
                else:
                    without[method] = f"diverges at every learning rate ({described(losses)})"
        return without

    def _keep(
        self, method: str, checks: Mapping[float, Cell], losses: Mapping[float, float]
    ) -> None:
        best, at_edge = min(losses, key=lambda rate: losses[rate]), beyond(losses) is not None
        choice = {
            "learning_rate": best,
            "losses": {f"{r:g}": x if math.isfinite(x) else None for r, x in losses.items()},
            "figure": self.figure,
            "at_edge": at_edge,
            "cells": [],
            "checks": [str(cell.folder) for _, cell in sorted(checks.items())],
        }
        with locked(self.root / "locks" / FILE):
            runs.write_json(self.root / FILE, {method: choice, **self.chosen()})
        edge = "; at the edge of those tried" if at_edge else ""
        # Beside the commands of --print, not among them.
        print(f"{method}: learning rate {best:g} ({described(losses)}{edge})", file=sys.stderr)

    def chosen(self) -> dict[str, Any]:
        """Returns the choices by method."""
        path = self.root / FILE
        return runs.read_json(path) if path.exists() else {}

    def note(self, cells: Mapping[str, Sequence[str]]) -> None:
        """Notes which cells have their rate from which methods, by their names."""
        if not cells:
            return
        with locked(self.root / "locks" / FILE):
            chosen = self.chosen()
            for name, methods in cells.items():
                for method in methods:
                    chosen[method]["cells"] = sorted({*chosen[method]["cells"], name})
            runs.write_json(self.root / FILE, chosen)

    def of_cells(self) -> dict[str, str]:
        """Returns the losses of the checks behind each cell's rate by method, as JSON."""
        found: dict[str, dict[str, Any]] = {}
        for method, one in self.chosen().items():
            for name in one["cells"]:
                found.setdefault(name, {})[method] = one["losses"]
        return {name: json.dumps(losses) for name, losses in found.items()}


def ended(check: Cell) -> bool:
    """Returns whether a check says what its rate is worth."""
    return check.finished or check.diverged


def beyond(losses: Mapping[float, float]) -> float | None:
    """Returns the rate to check next: beyond the best one, by the step to its neighbour.

    None if the best is neither the smallest nor the largest, or the only one.

    Arguments:
        losses: The losses by their rates; infinite where training diverged.
    """
    rates = sorted(losses)
    best = rates.index(min(rates, key=lambda rate: losses[rate]))
    if len(rates) == 1 or 0 < best < len(rates) - 1:
        return None
    neighbour = rates[1] if best == 0 else rates[-2]
    return float(f"{rates[best] ** 2 / neighbour:.6g}")


def power_law(rates: Mapping[float, float], strength: float) -> float:
    """Returns the rate at a strength: on the line through the logarithms of those that were found.

    With one rate that rate, with more than two the line of least squares.

    Arguments:
        rates: The rates by their strengths.
        strength: The strength asked for.
    """
    known = {math.log(one): math.log(rate) for one, rate in rates.items()}
    x, y = sum(known) / len(known), sum(known.values()) / len(known)
    spread = sum((one - x) ** 2 for one in known)
    slope = sum((one - x) * (rate - y) for one, rate in known.items()) / (spread or 1)
    return float(f"{math.exp(y + slope * (math.log(strength) - x)):.3g}")


def described(losses: Mapping[float, float]) -> str:
    """Returns rates with their losses, for a reader."""
    return ", ".join(f"{rate:g}: {loss:.4g}" for rate, loss in losses.items())


def mean_figure(log: Path, figure: str) -> float:
    """Returns the mean of a figure over the second half of a log's steps; NaN without any."""
    with log.open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    last = max((row["step"] for row in rows), default=0)
    values = [row[figure] for row in rows if figure in row and row["step"] > last / 2]
    return sum(values) / len(values) if values else math.nan
