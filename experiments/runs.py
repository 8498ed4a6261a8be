"""Finished runs of a text sweep: method, beta and seed of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fdpo.cli.pool import finished_runs
from fdpo.losses.names import is_plugin, resolve_loss
from fdpo.plotting import method_name, parse_method
from fdpo.runs import RECORD, read_json, run_options


@dataclass(frozen=True)
class Run:
    """A finished run: a method at a beta with a seed."""

    folder: Path
    method: str
    beta: float
    seed: int

    @classmethod
    def from_folder(cls, folder: Path) -> Run:
        """Reads the method, the beta and the seed from a run folder."""
        options = run_options(folder)
        if is_plugin(options["loss"]):
            raise ValueError(f"{folder}: code of its own is not imported: {options['loss']}")
        method = method_name(options["loss"], options["alpha"])
        return cls(folder, method, options["beta"], options["seed"])

    @property
    def options(self) -> dict[str, Any]:
        """The resolved options of the run."""
        return run_options(self.folder)


def load_runs(sweep: str, betas: Sequence[float] = ()) -> list[Run]:
    """Returns the finished runs of a sweep, only those at these betas if any are given.

    Raises:
        ValueError: If there is none.
    """
    folders = finished_runs(Path(sweep))
    runs = [Run.from_folder(folder) for folder in folders]
    selected = [run for run in runs if not betas or run.beta in betas]
    if not selected:
        where = " at --betas" if folders else ""
        raise ValueError(f"--sweep {sweep}: no finished run there{where}")
    return selected


def git_commits(runs: Sequence[Run]) -> list[str]:
    """Returns the commits that made the runs."""
    return sorted({read_json(run.folder / RECORD)["git_commit"] for run in runs})


def predicts_probabilities(method: str) -> bool:
    """Returns whether a method fits margins as log-odds, which IPO and hinge do not."""
    return resolve_loss(*parse_method(method))[1] == "logistic"
