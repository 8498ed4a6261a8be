"""Keeps what a sweep's cells measured in small files, and puts it back where they are missing.

    python benchmarks/kept_cells.py --sweep runs/sweep-imdb --kept results/text_cells

A run folder holds a model and thousands of samples; what the results are made of is a number for
each opening and held-out pair (``text_runs.measurements``). One file for each loss has a row for
each finished cell: its name, its seconds, its record, its figures and these numbers;
``learning_rates.json`` has the rates that were chosen. First what is kept and not in the sweep's
folder is put there, so that a sweep goes on from it on another machine and repeats no cell; then
the folder's cells are kept.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from programs import ROOT
from text_runs import MEASURED, Run, measurements

from fdpo import arguments, learning_rates, runs
from fdpo.cells import Cell, seconds
from fdpo.rows import read_rows, write_rows

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
        folder = sweep / "cells" / row["cell"]
        if not (folder / runs.METRICS).exists():
            folder.mkdir(parents=True, exist_ok=True)
            for name, file in FILES.items():
                runs.write_json(folder / file, row[name] if name != "run" else placed(row[name]))
            if row["seconds"] is not None:
                log_of(Cell(sweep, "cells", row["cell"]), row["seconds"])
            found += 1
    rates = kept / learning_rates.FILE
    if rates.exists() and not (sweep / learning_rates.FILE).exists():
        sweep.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(rates, sweep / learning_rates.FILE)
    return found


def portable(record: dict[str, Any]) -> dict[str, Any]:
    """Returns a record with the embedded models' folders as they are in any checkout."""
    found: dict[str, Any] = json.loads(
        re.sub(r'"/[^"]*/pretrained/', '"pretrained/', json.dumps(record))
    )
    return found


def placed(record: dict[str, Any]) -> dict[str, Any]:
    """Returns a record with the embedded models' folders as they are in this checkout."""
    found: dict[str, Any] = json.loads(
        json.dumps(record).replace('"pretrained/', f'"{ROOT}/pretrained/')
    )
    return found


def log_of(cell: Cell, seconds: float) -> None:
    """Writes a log that says how long a cell took, from which a sweep's table knows it."""
    ended = (cell.folder / runs.METRICS).stat().st_mtime
    begun = datetime.fromtimestamp(ended - seconds, UTC).isoformat()
    log = cell.root / "logs" / f"{cell.name}.1.txt"
    runs.write_text(log, f"{begun} put back\n")
    os.utime(log, (ended, ended))


def keep(sweep: Path, kept: Path) -> int:
    """Keeps the finished cells of a sweep's folder; returns their number."""
    rows: dict[str, list[dict[str, Any]]] = {}
    for metrics in sorted(sweep.glob(f"cells/*/{runs.METRICS}")):
        folder = metrics.parent
        measurements(folder)
        took = seconds(Cell(sweep, "cells", folder.name))
        row: dict[str, Any] = {
            "cell": folder.name,
            "seconds": None if took is None else round(took, 1),
        }
        row |= {name: runs.read_json(folder / file) for name, file in FILES.items()}
        row["run"] = portable(row["run"])
        rows.setdefault(Run.of(folder).method, []).append(row)
    for method, mine in rows.items():
        write_rows(kept / f"{method.replace(' ', '_')}.jsonl.gz", mine)
    rates = sweep / learning_rates.FILE
    if rates.exists():
        kept.mkdir(parents=True, exist_ok=True)
        with runs.replacing(kept / learning_rates.FILE) as beside:
            shutil.copyfile(rates, beside)
    return sum(map(len, rows.values()))


def main() -> None:
    (own,) = arguments.parse((Arguments,), program="kept_cells.py")
    sweep, kept = Path(own.sweep), Path(own.kept)
    print(f"{restore(kept, sweep)} cells put back, {keep(sweep, kept)} kept in {kept}")


if __name__ == "__main__":
    main()
