"""Keeps what a sweep's cells measured in small files, and puts it back where they are missing.

    python benchmarks/kept_cells.py --sweep runs/sweep-imdb --kept results/text_cells

A run folder holds a model and thousands of samples; what the results are made of is a number for
each opening and held-out pair (``text_runs.measurements``). One file for each loss has a row for
each finished cell: its name, its seconds, its record, its figures and these numbers;
``learning_rates.json`` has the rates that were chosen. First what is kept and not in the sweep's
folder is put there, so that a sweep goes on from it on another machine and repeats no cell; then
the folder's cells are kept. A cell is known by its options, the path of its pairs among them.
"""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from programs import ROOT
from text_runs import MEASURED, Run, measurements

from fdpo import runs
from fdpo.cli import arguments, learning_rates
from fdpo.cli.cells import Cell, seconds
from fdpo.cli.learning_rates import LearningRates
from fdpo.runs.locks import locked
from fdpo.runs.rows import read_rows, write_rows

FILES = {"run": runs.RECORD, "measured": MEASURED, "metrics": runs.METRICS}
"""The files of a cell by their names in a row; the last one says that it is finished."""


@dataclass
class Arguments:
    """Kept cells."""

    sweep: str = field(default="runs/sweep-imdb", metadata={"help": "folder of the sweep"})
    kept: str = field(default="results/text_cells", metadata={"help": "folder of the small files"})


def restore(kept: Path, sweep: Path) -> int:
    """Puts the kept cells that are missing into a sweep's folder; returns their number."""
    found = 0
    for row in (row for file in sorted(kept.glob("*.jsonl.gz")) for row in read_rows(file)):
        cell = Cell(sweep, "cells", row["cell"])
        if cell.finished or cell.at_work:
            continue
        shutil.rmtree(cell.folder, ignore_errors=True)  # an attempt that was interrupted
        for log in cell.logs():
            log.unlink()
        cell.folder.mkdir(parents=True)
        if row["seconds"] is not None:
            write_log(cell, row["seconds"])
        row["run"] = placed(row["run"])
        for name, file in FILES.items():
            runs.write_json(cell.folder / file, row[name])
        found += 1
    unite_rates(sweep, source=kept, target=sweep)
    return found


def unite_rates(sweep: Path, source: Path, target: Path) -> None:
    """Adds the learning rates that were chosen in one folder to those of another, which go first.

    Arguments:
        sweep: The sweep's folder, whose lock is held: ``source`` or ``target``.
        source: The folder whose rates are added.
        target: The folder that gets them; a method's cells are those of both.
    """
    with locked(sweep / "locks" / learning_rates.FILE):
        given, own = (LearningRates(folder, (), "").chosen() for folder in (source, target))
        for method in given.keys() & own.keys():
            own[method]["cells"] = sorted({*given[method]["cells"], *own[method]["cells"]})
        if given:
            runs.write_json(target / learning_rates.FILE, {**given, **own})


def portable(record: dict[str, Any]) -> dict[str, Any]:
    """Returns a record with the embedded models' folders as they are in any checkout."""
    found: dict[str, Any] = json.loads(
        re.sub(r'"/[^" ]*/pretrained/', '"pretrained/', json.dumps(record))
    )
    return found


def placed(record: dict[str, Any]) -> dict[str, Any]:
    """Returns a record with the embedded models' folders as they are in this checkout."""
    found: dict[str, Any] = json.loads(
        json.dumps(record).replace('"pretrained/', f'"{ROOT}/pretrained/')
    )
    return found


def write_log(cell: Cell, took: float) -> None:
    """Writes a log that says how long a cell took, from which a sweep's table knows it."""
    begun = datetime.now(UTC) - timedelta(seconds=took)
    log = cell.root / "logs" / f"{cell.name}.1.txt"
    runs.write_text(log, f"{begun.isoformat()} put back\n")


def keep(sweep: Path, kept: Path) -> int:
    """Keeps the finished cells of a sweep's folder; returns their number."""
    rows: dict[str, list[dict[str, Any]]] = {}
    for metrics in sorted(sweep.glob(f"cells/*/{runs.METRICS}")):
        folder = metrics.parent
        measurements(folder)
        took = seconds(Cell(sweep, "cells", folder.name))
        row: dict[str, Any] = {
            "cell": folder.name,
            "seconds": None if took is None else round(took),
        }
        row |= {name: runs.read_json(folder / file) for name, file in FILES.items()}
        row["run"] = portable(row["run"])
        rows.setdefault(Run.of(folder).method, []).append(row)
    for method, mine in rows.items():
        write_rows(kept / f"{runs.file_name(method)}.jsonl.gz", mine)
    unite_rates(sweep, source=sweep, target=kept)
    return sum(map(len, rows.values()))


def main() -> None:
    (own,) = arguments.parse((Arguments,), program="kept_cells.py")
    sweep, kept = Path(own.sweep), Path(own.kept)
    print(f"{restore(kept, sweep)} cells put back, {keep(sweep, kept)} kept in {kept}")


if __name__ == "__main__":
    main()
