"""Files of rows: JSONL (plain or gzip), Parquet and CSV, told apart by their ending.

Errors are `ValueError`s of one line that name the file and, where there is one, the row (from 1).
"""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from fdpo.runs.files import replacing

Row = Mapping[str, Any]

FORMATS = (".jsonl", ".jsonl.gz", ".parquet", ".csv")


def read_rows(path: str | Path) -> list[dict[str, Any]]:
    """Reads the rows of a JSONL (plain or gzip), Parquet or CSV file.

    Raises:
        ValueError: If the file is missing, empty or not in the format of its ending.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: {'a folder, not a file' if path.is_dir() else 'no such file'}")
    if not path.name.endswith(FORMATS):
        raise ValueError(f"{path}: unknown ending; a file of rows ends in {', '.join(FORMATS)}")
    try:
        rows = _parquet_rows(path) if path.suffix == ".parquet" else _text_rows(path)
    except (EOFError, UnicodeDecodeError, gzip.BadGzipFile) as error:
        raise ValueError(f"{path}: cannot be read ({error})") from error
    if not rows:
        raise ValueError(f"{path}: empty file")
    return rows


def _parquet_rows(path: Path) -> list[dict[str, Any]]:
    import pyarrow
    import pyarrow.parquet

    try:
        return pyarrow.parquet.read_table(path).to_pylist()
    except pyarrow.ArrowInvalid as error:
        raise ValueError(f"{path}: not a Parquet file ({error})") from error


def _text_rows(path: Path) -> list[dict[str, Any]]:
    # newline="\n": only that ends a row, neither "\r" nor U+0085, which str.splitlines would cut at
    opener: Any = gzip.open if path.suffix == ".gz" else open
    newline = "" if path.suffix == ".csv" else "\n"
    with opener(path, "rt", encoding="utf-8", newline=newline) as file:
        if path.suffix == ".csv":
            return list(csv.DictReader(file))
        return [_json(line, f"{path}, row {n}") for n, line in enumerate(file, 1)]


def _json(line: str, where: str) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        fault = f"{error.msg} at column {error.colno}" if line.strip() else "an empty line"
        raise ValueError(f"{where}: not JSON ({fault})") from error


def write_rows(path: str | Path, rows: Iterable[Row]) -> None:
    """Writes rows as JSONL (plain or gzip), Parquet or CSV, beside the file and then renamed.

    Parquet and CSV have the columns of the first row.
    """
    path = Path(path)
    write = {".parquet": _write_parquet, ".csv": _write_csv}.get(path.suffix, _write_jsonl)
    with replacing(path) as beside:
        write(beside, rows)


def _write_parquet(path: Path, rows: Iterable[Row]) -> None:
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows)), path)


def _write_csv(path: Path, rows: Iterable[Row]) -> None:
    rows = list(rows)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]) if rows else [])
        writer.writeheader()
        writer.writerows(rows)


def _write_jsonl(path: Path, rows: Iterable[Row]) -> None:
    with path.open("wb") as file:
        # No name and no time in the file: equal rows are equal bytes.
        zipped = gzip.GzipFile("", "wb", fileobj=file, mtime=0) if path.suffix == ".gz" else file
        with zipped as opened:
            opened.writelines(f"{json.dumps(row)}\n".encode() for row in rows)
