"""Table of a sweep's finished runs: options, metrics, seconds and commands."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from fdpo import runs
from fdpo.cli.pool import SweepRun, finished_runs
from fdpo.losses.config import LossConfig
from fdpo.runs.files import to_plain

ALWAYS_SHOWN = (*(option.name for option in fields(LossConfig)), "learning_rate", "seed")


def write_table(
    root: Path, defaults: Mapping[str, Any], aliases: Mapping[str, str], losses: Mapping[str, str]
) -> None:
    """Writes ``table.parquet`` and ``table.csv`` with a row for each finished run, unless none is.

    Columns are the run's name; the options of :data:`ALWAYS_SHOWN` and every other that some run
    changes; the losses of learning-rate trials; commit, seconds and command; all metrics. A column
    holds truth values, numbers or text.

    Arguments:
        root: The sweep's folder.
        defaults: The program's options by default.
        aliases: Other names of options, which older records may hold.
        losses: The losses behind the learning rate of each run.
    """
    import pandas

    folders = finished_runs(root)
    records = [runs.read_json(folder / runs.RECORD) for folder in folders]
    given = [{aliases.get(k, k): v for k, v in one["options"].items()} for one in records]
    varied = [
        name
        for name, default in to_plain(defaults).items()
        if any(options.get(name, default) != default for options in given)
        and runs.changes_metrics(name)
    ]
    rows = [
        {
            "run": folder.name,
            **{name: options.get(name) for name in (*ALWAYS_SHOWN, *varied)},
            "learning_rate_trial": losses.get(folder.name),
            "commit": record["git_commit"],
            "seconds": SweepRun(root, folder.name).seconds(),
            "command": record["commands"][0],
            **runs.read_json(folder / runs.METRICS),
        }
        for folder, options, record in zip(folders, given, records, strict=True)
    ]
    frame = pandas.DataFrame(rows, dtype=object)
    frame = frame.where(frame.notna(), None)
    for name, column in frame.items():
        kinds = {bool if isinstance(v, bool) else type(v) for v in column if v is not None}
        if not (kinds <= {bool} or kinds <= {int, float}):
            texts = [v if v is None or isinstance(v, str) else json.dumps(v) for v in column]
            frame[name] = pandas.Series(texts, dtype=object)
    if rows:
        with runs.replacing(root / "table.parquet") as path:
            frame.to_parquet(path, index=False)
        with runs.replacing(root / "table.csv") as path:
            frame.to_csv(path, index=False)
