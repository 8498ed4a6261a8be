"""Files appear whole or not at all."""

import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from fdpo import runs
from fdpo.runs.files import is_leftover, is_readable, remove_leftovers


def files_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_written_files_are_read_back(tmp_path: Path) -> None:
    value = {"mean": torch.tensor(0.5), "path": tmp_path, "text": "é\u0085\u2028", "rows": (1, 2)}
    runs.write_json(tmp_path / "new" / "a.json", value)
    assert runs.read_json(tmp_path / "new" / "a.json") == {
        "mean": 0.5,
        "path": str(tmp_path),
        "text": "é\u0085\u2028",
        "rows": [1, 2],
    }
    rows = [{"text": "a\nb\u0085"}, {"text": "c"}]
    runs.write_jsonl(tmp_path / "a.jsonl", iter(rows))
    with (tmp_path / "a.jsonl").open(encoding="utf-8") as file:
        assert [json.loads(line) for line in file] == rows


def test_numbers_that_json_lacks_are_null(tmp_path: Path) -> None:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    values = [float("nan"), torch.tensor(float("inf")), np.float32("-inf"), 0.5, True, None]
    value = {"deep": [{"mean": values}], "mean": float("nan")}
    plain = {"deep": [{"mean": [None, None, None, 0.5, True, None]}], "mean": None}
    runs.write_json(tmp_path / "a.json", value)
    runs.write_jsonl(tmp_path / "a.jsonl", [value, value])
    texts = [(tmp_path / "a.json").read_text(), *(tmp_path / "a.jsonl").read_text().splitlines()]
    assert [json.loads(text, parse_constant=refuse) for text in texts] == [plain] * 3


def test_an_interrupted_write_leaves_what_was_there(tmp_path: Path) -> None:
    def interrupted() -> Iterator[dict[str, int]]:
        yield {"row": 1}
        raise KeyboardInterrupt

    path = tmp_path / "rows.jsonl"
    for before in (None, "the old file"):
        if before:
            path.write_text(before)
        with pytest.raises(KeyboardInterrupt):
            runs.write_jsonl(path, interrupted())
        assert files_in(tmp_path) == (["rows.jsonl"] if before else [])
    assert path.read_text() == "the old file"


def test_nothing_is_at_its_place_before_it_is_whole(tmp_path: Path) -> None:
    with runs.replacing(tmp_path / "table.parquet") as beside:
        beside.write_text("half")
        assert beside.suffix == ".parquet" and not (tmp_path / "table.parquet").exists()
    assert files_in(tmp_path) == ["table.parquet"]


def test_a_reader_of_the_old_file_reads_all_of_it(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    path.write_text("the old file")
    with path.open() as reader:
        runs.write_json(path, {"new": 1})
        assert reader.read() == "the old file"
    assert runs.read_json(path) == {"new": 1}


def test_malformed_json_names_file_and_line(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"a": 1,\n"b": }')
    with pytest.raises(ValueError, match="a.json, line 2: not JSON"):
        runs.read_json(tmp_path / "a.json")


def test_file_names_of_losses() -> None:
    assert runs.file_name("alpha-0.5") == "alpha-0.5"
    assert runs.file_name("0.7*js + 0.3*reverse_kl") == "0.7_js_+_0.3_reverse_kl"
    assert runs.file_name("../package.module:mine") == "_package.module_mine"


def test_leftovers_of_killed_writers_are_known_by_their_names(tmp_path: Path) -> None:
    names = [".run.123.json", ".000001-0.77.png", ".train.12-0123abcd.jsonl", ".a.b.1-0123abcd"]
    kept = ["run.json", ".gitignore", ".python-version", "a.123.json", ".cache"]
    for name in [*names, *kept]:
        (tmp_path / name).touch()
    with runs.replacing(tmp_path / "table.jsonl.gz") as beside:
        beside.touch()
        assert is_leftover(beside)
    remove_leftovers(tmp_path.iterdir(), age=60)
    assert len(files_in(tmp_path)) == len(names + kept) + 1
    remove_leftovers(tmp_path.iterdir())
    assert files_in(tmp_path) == sorted([*kept, "table.jsonl.gz"])


def test_threads_write_a_file_at_once(tmp_path: Path) -> None:
    def write(number: int) -> None:
        runs.write_json(tmp_path / "a.json", [number] * 1000)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(64)))
    assert len(set(runs.read_json(tmp_path / "a.json"))) == 1 and files_in(tmp_path) == ["a.json"]


def test_names_that_are_no_text_are_written_and_read_back(tmp_path: Path) -> None:
    """An ASCII locale gives lone surrogates for the bytes of a path."""
    value = {"output_dir": os.fsdecode(b"runs/\xc3\xa4") + "\udcff", "text": "\ud800é"}
    runs.write_json(tmp_path / "a.json", value)
    runs.write_jsonl(tmp_path / "a.jsonl", [value])
    assert runs.read_json(tmp_path / "a.json") == value
    assert json.loads((tmp_path / "a.jsonl").read_text(encoding="utf-8")) == value


def test_damaged_files_are_said_to_be_made_again(tmp_path: Path) -> None:
    def read(file: Path) -> int:
        return int(file.read_text())

    file = tmp_path / "part.txt"
    assert not is_readable(file, read)
    file.write_text("")
    with pytest.warns(UserWarning, match="part.txt is damaged and made again") as notes:
        assert not is_readable(file, read)
    assert len(notes) == 1
    file.write_text("1")
    assert is_readable(file, read)
