"""Files of rows: every format, and one clear line for what cannot be read."""

import csv
import gzip
from pathlib import Path
from typing import Any

import pytest

from fdpo.runs.rows import Cell, read_rows, write_rows

ROWS = [{"text": "one\u0085two\u2028three", "n": 1}, {"text": 'quo"te\n', "n": 2}]


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz", "rows.parquet"])
def test_what_is_written_is_read(tmp_path: Path, name: str) -> None:
    write_rows(tmp_path / "new" / name, ROWS)
    assert read_rows(tmp_path / "new" / name) == ROWS
    assert [path.name for path in (tmp_path / "new").iterdir()] == [name]


def test_only_newlines_end_rows(tmp_path: Path) -> None:
    (tmp_path / "raw.jsonl").write_bytes('{"text": "a\u0085b"}\n{"text": "c"}'.encode())
    assert read_rows(tmp_path / "raw.jsonl") == [{"text": "a\u0085b"}, {"text": "c"}]


def test_csv(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text('text,n\n"a, ""b""\nc",1\n')
    assert read_rows(tmp_path / "rows.csv") == [{"text": 'a, "b"\nc', "n": "1"}]
    rows: list[dict[str, Any]] = [*ROWS, {"text": None, "n": 0.5}]
    write_rows(tmp_path / "rows.csv", rows)
    as_text = [{"text": row["text"] or "", "n": str(row["n"])} for row in rows]
    assert read_rows(tmp_path / "rows.csv") == as_text


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.parquet", "rows.csv"])
def test_columns_are_those_of_all_rows(tmp_path: Path, name: str) -> None:
    rows: list[dict[str, Any]] = [{"a": "x"}, {"b": "y", "a": "z"}, {"c": "w"}]
    write_rows(tmp_path / name, rows)
    read = [{k: v for k, v in row.items() if v} for row in read_rows(tmp_path / name)]
    assert read == rows


def test_cells_hold_values_of_other_kinds(tmp_path: Path) -> None:
    values = {"a": 0.5, "b": True, "c": [1, 2], "d": {"x": None}, "e": -3, "f": None}
    write_rows(tmp_path / "rows.csv", [values])
    [row] = read_rows(tmp_path / "rows.csv")
    assert {name: cell.parsed() for name, cell in row.items()} == values
    assert Cell("True").parsed() is True  # as Python and pandas write it
    assert Cell("[{'role': 'user'}]").parsed() == [{"role": "user"}]
    assert Cell("a, b").parsed() == "a, b"


@pytest.mark.parametrize("size", [131_073, 3_000_000])
def test_long_cells(tmp_path: Path, size: int) -> None:
    limit = csv.field_size_limit()
    write_rows(tmp_path / "rows.csv", [{"text": "x" * size}])
    assert read_rows(tmp_path / "rows.csv") == [{"text": "x" * size}]
    assert csv.field_size_limit() == limit


@pytest.mark.parametrize(
    ("name", "content"), [("a.csv", "n,m\n1,2\n"), ("a.jsonl", '{"n": "1", "m": "2"}\n')]
)
@pytest.mark.parametrize("zipped", [False, True])
def test_byte_order_marks(tmp_path: Path, name: str, content: str, zipped: bool) -> None:
    data = content.encode("utf-8-sig")
    if zipped and name == "a.jsonl":
        name, data = "a.jsonl.gz", gzip.compress(data)
    (tmp_path / name).write_bytes(data)
    assert read_rows(tmp_path / name) == [{"n": "1", "m": "2"}]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b"", "a.jsonl: empty file"),
        ("a.jsonl", b'{"a": 1}\n{"a": \n', "a.jsonl, row 2: not JSON"),
        ("a.jsonl", b'{"a": 1}\n\n{"a": 2}\n', r"a.jsonl, row 2: not JSON \(an empty line"),
        ("a.jsonl", b"\xff\xfe", "a.jsonl: cannot be read"),
        ("a.jsonl.gz", b"no gzip", "a.jsonl.gz: cannot be read"),
        (
            "a.jsonl.gz",
            gzip.compress(b'{"a": 1}\n' * 99, mtime=0)[:-9],
            "a.jsonl.gz: cannot be read",
        ),
        ("a.parquet", b"no parquet", "a.parquet: not a Parquet file"),
        ("a.csv", b"p,c\nx,y\nx,y,z\n", "a.csv, row 2: 3 cells for 2 columns; quote texts that"),
        ("a.xlsx", b"", "unknown ending; a file of rows ends in .jsonl, .jsonl.gz, .parquet, .csv"),
    ],
)
def test_unreadable_files(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        read_rows(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_missing_files(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no-such.jsonl: no such file"):
        read_rows(tmp_path / "no-such.jsonl")
    with pytest.raises(ValueError, match="a folder, not a file"):
        read_rows(tmp_path)
