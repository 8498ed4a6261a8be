"""Columns under other names, and those that nothing reads."""

from __future__ import annotations

from typing import Any

import pytest

from fdpo.preferences.columns import ALIASES, READ, find_aliases, rename_columns, unread_texts


@pytest.mark.parametrize(("name", "alias"), [(n, a) for n, names in ALIASES.items() for a in names])
def test_every_alias_is_read_and_said(name: str, alias: str) -> None:
    with pytest.warns(UserWarning, match=f"^f: .*other names: {alias} as {name}$"):
        assert rename_columns([{"other": 1}, {alias: "x"}], "f") == [
            {"other": 1, name: None},
            {name: "x"},
        ]
    assert find_aliases([{name: "y"}, {alias: "x"}]) == {}
    assert find_aliases([{name: None, alias: "x"}]) == {name: alias}
    assert find_aliases([{alias: None}, {alias: ""}]) == {}


def test_the_first_alias_counts() -> None:
    assert find_aliases([{"query": "a"}, {"question": "b"}]) == {"prompt": "question"}


def test_unread_texts() -> None:
    rows: list[dict[str, Any]] = [
        {"prompt": "p", "chosen": "a", "id": "x1", "n": 3, "empty": "", "none": None, "copy": "p"},
        {"prompt": "q", "chosen": "a", "id": "x2", "topic": "old films", "copy": "q"},
        {"turns": [{"from": "human", "value": "q"}], "numbers": [1, 2], "texts": ["a"]},
    ]
    assert unread_texts(rows) == {"id": False, "topic": True, "turns": True}
    assert unread_texts([dict.fromkeys(READ, "some text")]) == {}
