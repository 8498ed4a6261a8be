"""The table of a sweep's folder: a row for each finished cell, however many sweeps made them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from fdpo import runs
from fdpo.cli.cells import Cell, seconds
from fdpo.losses.config import LossConfig
from fdpo.runs.rows import write_rows

ALWAYS = (*(one.name for one in fields(LossConfig)), "learning_rate", "seed")


def write_table(root: Path, defaults: Mapping[str, Any], checked: Mapping[str, str]) -> None:
    """Writes ``table.parquet`` and ``table.csv``, unless no cell is finished.

    Columns are the cell's name; the options of :data:`ALWAYS`, and others that are not the
    program's default in every cell; the losses of the learning-rate check; the commit, the seconds
    and the command of the run; and all its figures.

    Arguments:
        root: The sweep's folder.
        defaults: The program's options without a command line.
        checked: The losses of the checks behind a cell's rate, by the cells' names.
    """
    folders = sorted(path.parent for path in root.glob(f"cells/*/{runs.METRICS}"))
    records = [runs.read_json(folder / runs.RECORD) for folder in folders]
    options = shown_options([record["options"] for record in records], defaults)
    rows = [
        {
            "cell": folder.name,
            **{name: record["options"].get(name) for name in options},
            "learning_rate_check": checked.get(folder.name),
            "commit": record["git_commit"],
            "seconds": seconds(Cell(root, "cells", folder.name)),
            "command": record["commands"][0],
            **runs.read_json(folder / runs.METRICS),
        }
        for folder, record in zip(folders, records, strict=True)
    ]
    if rows:
        rows = tidy(rows)
        write_rows(root / "table.parquet", rows)
        write_rows(root / "table.csv", rows)


def shown_options(given: Sequence[Mapping[str, Any]], defaults: Mapping[str, Any]) -> list[str]:
    """Returns the options that a reader of the table needs to tell its cells from others."""
    plain = json.loads(json.dumps(defaults, default=str))  # as a run's record holds them
    varied = [
        name
        for name, default in plain.items()
        if any(options.get(name, default) != default for options in given)
        and runs.changes_metrics(name)
    ]
    return list(dict.fromkeys([*ALWAYS, *varied]))


def tidy(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Returns rows that all have all columns, each with values of one type or None."""
    names = dict.fromkeys(name for row in rows for name in row)
    columns = [column([row.get(name) for row in rows]) for name in names]
    return [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]


def column(values: Sequence[Any]) -> list[Any]:
    """Returns values that are all truth values, all numbers or, if neither, all text, or None."""
    kinds = {bool if isinstance(v, bool) else type(v) for v in values if v is not None}
    if kinds <= {bool} or kinds <= {int, float}:
        return list(values)
    return [v if v is None or isinstance(v, str) else json.dumps(v) for v in values]
