"""Results of trials: a file that grows with each, and a table of those tried and survived."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from threading import Lock

from fdpo.runs.files import read_json, write_json
from tests.faults.trials import Trial


class Results:
    """Trials in a JSON file, which is written after each.

    Arguments:
        path: The file; trials that it holds are not repeated.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.lock = path, Lock()
        rows = read_json(path) if path.exists() else []
        self.trials = [Trial(**row) for row in rows]

    def __contains__(self, key: tuple[str, str]) -> bool:
        return any((trial.program, trial.key) == key for trial in self.trials)

    def add(self, trial: Trial) -> None:
        """Adds a trial and writes the file."""
        with self.lock:
            self.trials.append(trial)
            write_json(self.path, [one.row() for one in self.trials])


def markdown(trials: Iterable[Trial]) -> str:
    """Returns a table of those survived of those tried, and a list of the others."""
    counts: dict[tuple[str, str], list[bool]] = defaultdict(list)
    trials = list(trials)
    for trial in trials:
        counts[trial.fault, trial.program].append(not trial.failure)
    programs = list(dict.fromkeys(trial.program for trial in trials))
    faults = sorted({trial.fault for trial in trials})
    lines = ["| fault | " + " | ".join(programs) + " |", "| --- |" + " ---: |" * len(programs)]
    for fault in faults:
        cells = [counts.get((fault, program), []) for program in programs]
        shown = [f"{sum(cell)}/{len(cell)}" if cell else "" for cell in cells]
        lines.append(f"| {fault} | " + " | ".join(shown) + " |")
    survived = sum(not trial.failure for trial in trials)
    lines.append(f"\n{survived} of {len(trials)} survived.")
    for trial in trials:
        if trial.failure:
            lines.append(f"- {trial.program}, {trial.fault} ({trial.where}): {trial.failure}")
    return "\n".join(lines)
