"""Archive of a sweep's runs: the measurements behind its results, in small files.

    python -m experiments.archive --sweep runs/sweep-imdb --archive results/text_runs

A run folder holds a model and thousands of samples; the results need one value for each prompt and
held-out pair (``experiments.measurements``). The archive has one file for each loss, with a row for
each finished run: its name, its seconds, its record, its metrics and these measurements. Its
``learning_rates.json`` holds the selected learning rates. Archived runs that the sweep's folder
lacks are restored first, so that the sweep resumes on another machine without repeating them; then
the finished runs of the folder are archived. A run's name depends on its options, among them the
path of its pairs.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from filelock import FileLock

from experiments.measurements import MEASURED, measurements
from experiments.runs import Run
from fdpo import runs
from fdpo.cli import arguments, learning_rates
from fdpo.cli.pool import SweepRun, finished_runs
from fdpo.cli.sweep import LOCK
from fdpo.runs.rows import read_rows, write_rows
from fdpo.tasks import PRETRAINED

PROGRAM = "experiments.archive"
FILES = {"record": runs.RECORD, "measured": MEASURED, "metrics": runs.METRICS}
"""The files of a run by their names in a row; the last one marks it as finished."""


@dataclass
class Arguments:
    """Archive."""

    sweep: str = field(default="runs/sweep-imdb", metadata={"help": "folder of the sweep"})
    archive: str = field(default="results/text_runs", metadata={"help": "folder of the archive"})


def restore(archive: Path, sweep: Path) -> int:
    """Writes the archived runs that a sweep's folder lacks; returns their number."""
    rows = [row for file in sorted(archive.glob("*.jsonl.gz")) for row in read_rows(file)]
    missing = [row for row in rows if is_missing(SweepRun(sweep, row["run"]))]
    for row in missing:
        restore_run(SweepRun(sweep, row["run"]), row)
    unite_rates(sweep, source=archive, target=sweep)
    return len(missing)


def is_missing(run: SweepRun) -> bool:
    """Returns whether a run is neither finished nor at work."""
    return not run.finished and not run.at_work


def restore_run(run: SweepRun, row: dict[str, Any]) -> None:
    """Writes the folder and the log of an archived run."""
    shutil.rmtree(run.folder, ignore_errors=True)  # an interrupted attempt
    for log in run.logs():
        log.unlink()
    run.folder.mkdir(parents=True)
    row = {**row, "record": absolute_models(row["record"])}
    for name, file in FILES.items():
        runs.write_json(run.folder / file, row[name])
    if row["seconds"] is not None:
        write_log(run, row["seconds"])


def write_log(run: SweepRun, seconds: float) -> None:
    """Writes a log from which a sweep's table reads the seconds of a run."""
    end = datetime.now(UTC)
    log = run.root / "logs" / f"{run.name}.1.txt"
    runs.write_text(log, f"{(end - timedelta(seconds=seconds)).isoformat()} restored\n")
    for file in (log, run.folder / runs.METRICS):
        os.utime(file, (end.timestamp(),) * 2)


def unite_rates(sweep: Path, source: Path, target: Path) -> None:
    """Adds the learning rates of one folder to those of another, which take precedence.

    Arguments:
        sweep: The sweep's folder, whose lock is held: ``source`` or ``target``.
        source: The folder whose rates are added.
        target: The folder to add them to; a method's runs are those of both.
    """
    with FileLock(sweep / LOCK):
        added, present = map(learning_rates.read_choices, (source, target))
        for method in added.keys() & present.keys():
            present[method]["runs"] = sorted({*added[method]["runs"], *present[method]["runs"]})
        if added:
            runs.write_json(target / learning_rates.FILE, {**added, **present})


def portable_models(record: dict[str, Any]) -> dict[str, Any]:
    """Returns a record with the embedded models' folders relative to any checkout."""
    return json.loads(re.sub(r'"/[^" ]*/pretrained/', '"pretrained/', json.dumps(record)))


def absolute_models(record: dict[str, Any]) -> dict[str, Any]:
    """Returns a record with the embedded models' folders in this checkout."""
    return json.loads(json.dumps(record).replace('"pretrained/', f'"{PRETRAINED}/'))


def save(sweep: Path, archive: Path) -> int:
    """Archives the finished runs of a sweep's folder; returns their number."""
    folders = finished_runs(sweep)
    rows: dict[str, list[dict[str, Any]]] = {}
    for folder in folders:
        rows.setdefault(Run.from_folder(folder).method, []).append(archive_row(sweep, folder))
    for method, method_rows in rows.items():
        write_rows(archive / f"{runs.file_name(method)}.jsonl.gz", method_rows)
    unite_rates(sweep, source=sweep, target=archive)
    return len(folders)


def archive_row(sweep: Path, folder: Path) -> dict[str, Any]:
    """Returns the row of a finished run."""
    measurements(folder)  # writes the file
    seconds = SweepRun(sweep, folder.name).seconds()
    row: dict[str, Any] = {
        "run": folder.name,
        "seconds": None if seconds is None else round(seconds),
    }
    row |= {name: runs.read_json(folder / file) for name, file in FILES.items()}
    return row | {"record": portable_models(row["record"])}


def main() -> None:
    (args,) = arguments.parse((Arguments,), program=PROGRAM, aliases={"kept": "archive"})
    sweep, archive = Path(args.sweep), Path(args.archive)
    restored, saved = restore(archive, sweep), save(sweep, archive)
    print(f"{restored} runs restored, {saved} archived in {archive}")


if __name__ == "__main__":
    main()
