"""Prompts from files: lines, captions, beginnings of texts, and a clear error for wrong sources."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from fdpo.preferences.prompts import first_words, read_prompts
from fdpo.runs.rows import write_rows


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("lines.txt").write_bytes("a cat \r\n\n a\u0085dog\n  \na cat \n".encode())
    write_rows("texts.jsonl", [{"text": f"One{i} two<br />three four."} for i in range(9)])
    write_rows("captions.csv", [{"caption": "a fox", "prompt": "x"}, {"caption": " a hen"}])
    write_rows("prompts.jsonl", [{"prompt": "a"}, {"prompt": "b"}, {"prompt": "a"}])


def test_lines_are_distinct_prompts() -> None:
    assert read_prompts("lines.txt") == ["a cat ", " a\u0085dog"]
    assert read_prompts("lines.txt", captions=True) == ["a cat", "a\u0085dog"]


def test_captions_are_whole_values_of_a_column() -> None:
    assert read_prompts("captions.csv", captions=True) == ["a fox", " a hen"]
    assert read_prompts("prompts.jsonl", captions=True) == ["a", "b"]
    assert read_prompts("prompts.jsonl", 1, captions=True) == ["a"]


def test_texts_begin_with_prompts() -> None:
    assert read_prompts("texts.jsonl", words=2) == [f"One{i} two" for i in range(9)]
    assert read_prompts("texts.jsonl", 1, words=3) == ["One0 two\nthree"]


def test_the_seed_selects_prompts() -> None:
    prompts = read_prompts("texts.jsonl", words=1)
    for seed in (0, 1):
        expected = random.Random(seed).sample(prompts, 4)
        assert read_prompts("texts.jsonl", 4, words=1, seed=seed) == expected != prompts[:4]
    assert read_prompts("texts.jsonl", words=1, seed=0) == prompts


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ("absent.txt", {}, "absent.txt: no such file"),
        ("latin.txt", {}, "latin.txt: not a text file in UTF-8"),
        ("lines.txt", {"n": 3}, "lines.txt: holds 2 distinct prompts, but 3 are needed"),
        ("empty.txt", {}, "empty.txt: holds 0 distinct prompts, but 1 are needed"),
        ("prompts.jsonl", {}, "prompts.jsonl, row 1: no column text; found prompt"),
        ("texts.jsonl", {"captions": True}, "texts.jsonl, row 1: no column prompt; found text"),
        ("numbers.jsonl", {"captions": True}, "numbers.jsonl, row 1: caption is 3, not a text"),
        ("numbers.jsonl", {}, "numbers.jsonl, row 1: text is None, not a text"),
        ("lists.jsonl", {}, "lists.jsonl, row 1: must hold named columns, not list"),
        ("rows.xlsx", {}, "rows.xlsx: unknown ending"),
        ("no/such-data", {}, "prompts no/such-data: neither a file .*nor a data set"),
    ],
)
def test_wrong_sources(source: str, options: dict[str, Any], message: str) -> None:
    Path("empty.txt").write_text("\n")
    Path("latin.txt").write_bytes(b"caf\xe9\n")
    Path("numbers.jsonl").write_text('{"caption": 3, "text": null}\n')
    Path("lists.jsonl").write_text('["text"]\n')
    Path("rows.xlsx").touch()
    with pytest.raises(ValueError, match=message) as caught:
        read_prompts(source, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words", "beginning"),
    [
        (" A film\nof\tthe year ", 3, "A film\nof"),
        ("A film of", 3, ""),
        ("A film ", 3, ""),
        ("", 1, ""),
        ("word " * 10, 1, "word"),
        ("x" * 5000 + " y", 2, ""),
        ("Once. Twice.", None, "Once"),
        ("Never ends", None, ""),
        ("Ends.", None, ""),
    ],
)
def test_first_words(text: str, words: int | None, beginning: str) -> None:
    assert first_words(text, words) == beginning


def test_a_byte_order_mark_is_no_part_of_the_first_prompt(tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("first one\nsecond\n", encoding="utf-8-sig")
    assert read_prompts(str(tmp_path / "prompts.txt")) == ["first one", "second"]
