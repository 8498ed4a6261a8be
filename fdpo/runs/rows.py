"""Files of rows: JSONL (plain or gzip), Parquet and CSV, told apart by their ending.

Errors are `ValueError`s of one line that name the file and, where there is one, the row (from 1).
"""

from __future__ import annotations

import ast
import csv
import gzip
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fdpo.runs.files import replacing

Row = Mapping[str, Any]

FORMATS = (".jsonl", ".jsonl.gz", ".parquet", ".csv")

LONGEST_CELL = 2**31 - 1
"""The longest cell of a CSV file, in characters: the most that every platform allows."""


class Cell(str):
    """The text of a cell of a CSV file, which stands for another value where a column holds none.

    Example:
        >>> Cell("0.5").parsed(), Cell("True").parsed(), Cell("[1, 2]").parsed(), Cell("").parsed()
        (0.5, True, [1, 2], None)
    """

    def parsed(self) -> Any:
        """Returns the value that the text writes in JSON or Python; the text if it writes none."""
        for parse in (json.loads, ast.literal_eval):
            try:
                return parse(self) if self else None
            except (ValueError, SyntaxError, MemoryError, RecursionError):
                continue
        return str(self)


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
    except (EOFError, UnicodeDecodeError, gzip.BadGzipFile, csv.Error) as error:
        raise ValueError(f"{path}: cannot be read ({error})") from error
    if not rows:
        raise ValueError(f"{path}: empty file")
    return rows


def _parquet_rows(path: Path) -> list[dict[str, Any]]:
    import pyarrow
    import pyarrow.parquet

    try:
        return pyarrow.parquet.read_table(path).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:  # damaged, or columns nested too deeply
        raise ValueError(f"{path}: not a Parquet file ({error})") from error


def _text_rows(path: Path) -> list[dict[str, Any]]:
    # newline="\n": only that ends a row, neither "\r" nor U+0085, which str.splitlines would cut at
    opener: Any = gzip.open if path.suffix == ".gz" else open
    newline = "" if path.suffix == ".csv" else "\n"
    # utf-8-sig: a byte order mark, as spreadsheets write it, is no part of the first name
    with opener(path, "rt", encoding="utf-8-sig", newline=newline) as file:
        if path.suffix == ".csv":
            return _csv_rows(file, path)
        return [_json(line, f"{path}, row {n}") for n, line in enumerate(file, 1)]


def _csv_rows(file: Iterable[str], path: Path) -> list[dict[str, Any]]:
    limit = csv.field_size_limit(LONGEST_CELL)
    try:
        rows = list(csv.DictReader(file))
    finally:
        csv.field_size_limit(limit)
    for n, row in enumerate(rows, 1):
        if None in row:  # where DictReader puts the cells beyond the last name
            size = len(row) - 1
            raise ValueError(
                f"{path}, row {n}: {size + len(row[None])} cells for {size} columns; "
                "quote texts that hold a comma"
            )
    return [
        {name: None if text is None else Cell(text) for name, text in row.items()} for row in rows
    ]


def _json(line: str, where: str) -> Any:
    try:
        value = json.loads(line)
        if "\\ud" in line.lower():  # escapes that write half a character, unless two form a pair
            json.dumps(value, ensure_ascii=False).encode()
        return value
    except UnicodeEncodeError as error:
        half = error.object[error.start].encode("unicode_escape").decode()
        raise ValueError(f"{where}: {half} is a lone surrogate, half a character") from error
    except json.JSONDecodeError as error:
        fault = f"{error.msg} at column {error.colno}" if line.strip() else "an empty line"
        raise ValueError(f"{where}: not JSON ({fault})") from error
    except (ValueError, RecursionError) as error:  # an integer too long, values nested too deeply
        raise ValueError(f"{where}: not JSON that can be read ({error})") from error


def write_rows(path: str | Path, rows: Iterable[Row]) -> None:
    """Writes rows as JSONL (plain or gzip), Parquet or CSV, beside the file and then renamed.

    Parquet and CSV have the columns of all rows. CSV holds lists, dictionaries and marks as JSON,
    and nothing where a value is None or missing.
    """
    path = Path(path)
    write = {".parquet": _write_parquet, ".csv": _write_csv}.get(path.suffix, _write_jsonl)
    with replacing(path) as beside:
        write(beside, rows)


def as_columns(rows: Sequence[Row]) -> dict[str, list[Any]]:
    """Returns the columns of all rows, with None where a row has no value.

    Example:
        >>> as_columns([{"chosen": "a"}, {"prompt": "p", "chosen": "b"}])
        {'chosen': ['a', 'b'], 'prompt': [None, 'p']}
    """
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


def _write_parquet(path: Path, rows: Iterable[Row]) -> None:
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.table(as_columns(list(rows))), path)


def _write_csv(path: Path, rows: Iterable[Row]) -> None:
    columns = as_columns(list(rows))
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*(map(_cell, values) for values in columns.values()), strict=True))


def _cell(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, (list, dict, bool)) else value


def _write_jsonl(path: Path, rows: Iterable[Row]) -> None:
    with path.open("wb") as file:
        # No name and no time in the file: equal rows are equal bytes.
        zipped = gzip.GzipFile("", "wb", fileobj=file, mtime=0) if path.suffix == ".gz" else file
        with zipped as opened:
            opened.writelines(f"{json.dumps(row)}\n".encode() for row in rows)
