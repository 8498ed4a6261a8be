"""Any JSON value in any field of a row: a result whose counts add up, or one line that names it."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fdpo.diffusion.images import read_pair_folder
from fdpo.diffusion.text_to_image.load_pairs import load_captioned_pairs
from fdpo.preferences.pairs import PairingConfig, split_by_prompt
from fdpo.preferences.prompts import read_prompts
from fdpo.preferences.schema import (
    groups_from_rows,
    pairs_from_rows,
    preferences_from_rows,
    read_pairs,
    write_pairs,
)
from fdpo.runs.rows import read_rows, write_rows
from tests.json_values import KINDS, examples, lines, outcome, rows, values

FILE = "data.jsonl"
PAIRINGS = (PairingConfig(), PairingConfig(min_gap=0.5), PairingConfig(rule="all"))


def require_counts(counts: Counter[str], pairs: list[Any], candidates: int | None) -> None:
    """Asserts that every candidate was made a pair or is counted as dropped."""
    origin = ("groups", "small_groups", "answers_without_prompt", "candidates")
    assert counts["made"] == len(pairs)
    assert counts["candidates"] == sum(n for name, n in counts.items() if name not in origin)
    assert candidates is None or counts["candidates"] == candidates


@pytest.mark.parametrize("kind", KINDS)
@examples(150)
@given(data=st.data())
def test_rows(kind: str, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    made, pairing = data.draw(rows(kind)), data.draw(st.sampled_from(PAIRINGS))
    result = outcome(lambda: preferences_from_rows(made, FILE, pairing), FILE)
    if result is None:
        return
    pairs, counts = result
    held = all(isinstance(row, dict) and "completions" not in row for row in made)
    require_counts(counts, pairs, len(made) if held and "answers" not in made[0] else None)
    outcome(lambda: split_by_prompt(pairs, 0.5), "cannot split")
    file = tmp_path_factory.mktemp("rows") / FILE
    write_pairs(file, pairs)
    assert outcome(lambda: read_pairs(file), FILE) == pairs or "\\ud" in file.read_text()


@pytest.mark.parametrize("read", [groups_from_rows, pairs_from_rows])
@examples(60)
@given(data=st.data())
def test_a_wrong_row_is_named(read: Callable[..., Any], data: st.DataObject) -> None:
    made = data.draw(rows("group" if read is groups_from_rows else "conversation"))
    result = outcome(lambda: read(made, FILE), FILE)
    assert result is None or len(result) == len(made)


@pytest.mark.parametrize("ending", [".jsonl", ".jsonl.gz", ".csv", ".parquet"])
@examples(60)
@given(data=st.data())
def test_files(ending: str, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    made = data.draw(rows(data.draw(st.sampled_from(("pair", "group", "conversation")))))
    file = tmp_path_factory.mktemp("rows") / f"data{ending}"
    try:
        write_rows(file, made)
    except Exception:  # this format does not hold these values
        return
    found = outcome(lambda: read_rows(file), file.name)
    if found is not None:
        assert len(found) == len(made)
        outcome(lambda: preferences_from_rows(found, str(file)), file.name)


@examples(150)
@given(value=values, row=st.integers(0, 2))
def test_lines_of_a_file_are_named(
    value: Any, row: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = tmp_path_factory.mktemp("lines") / FILE
    written = ['{"a": 1}'] * 3
    written[row] = json.dumps(value)
    file.write_text("\n".join(written) + "\n")
    found = outcome(lambda: read_rows(file), f"{FILE}, row {row + 1}")
    assert (found is None) == bool(re.search(r"\\ud[89a-f]", written[row])) or found[row] == value


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("[" * 100_000, "row 2: not JSON"),
        ('{"a":' * 100_000, "row 2: not JSON"),
        ("[" * 5_000 + "]" * 5_000, "row 2: not JSON"),
        ("1" * 5_000, "row 2: not JSON"),
        ('{"prompt": "\\ud800"}', "row 2: .*surrogate"),
        ('{"\\udc00": 1}', "row 2: .*surrogate"),
        ('{"a": [{"b": "x\\uDBFF"}]}', "row 2: .*surrogate"),
    ],
    ids=lambda value: value[:12],
)
def test_lines_that_no_program_can_read(line: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / FILE
    file.write_text(f'{{"prompt": "\\ud83d\\ude00"}}\n{line}\n')
    with pytest.raises(ValueError, match=f"{FILE}, {message}"):
        read_rows(file)


@examples(80)
@given(made=rows("images"))
def test_captioned_images(made: list[Any], tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("images")
    for name in ("a.png", "b.png"):
        (folder / name).write_bytes(b"no image")
    (folder / "train.jsonl").write_text(lines(made))
    result = outcome(lambda: load_captioned_pairs(str(folder)), "train.jsonl")
    if result is not None:
        pairs, counts = result
        require_counts(counts, pairs, None)
        for index in range(len(pairs)):
            assert pairs.read(index, "chosen") == b"no image"


@examples(60)
@given(made=rows("images"))
def test_folders_of_images(made: list[Any], tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("folder")
    (folder / "a.png").write_bytes(b"no image")
    (folder / "train.jsonl").write_text(lines(made))
    assert outcome(lambda: read_pair_folder(folder, (1, 2, 2)), str(folder)) is None


@examples(60)
@given(made=st.lists(st.fixed_dictionaries({"text": values}) | values, min_size=1, max_size=4))
def test_prompts(made: list[Any], tmp_path_factory: pytest.TempPathFactory) -> None:
    file = tmp_path_factory.mktemp("prompts") / FILE
    file.write_text(lines(made))
    outcome(lambda: read_prompts(str(file)), FILE)
    outcome(lambda: read_prompts(str(file), captions=True), FILE)
