"""Rows as groups and pairs: what is read, and an error for every malformed row."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from fdpo.preferences.pairs import Group, Pair, get_prompt, make_pairs
from fdpo.preferences.schema import (
    get_list,
    get_optional,
    groups_from_rows,
    pairs_from_rows,
    preferences_from_rows,
    read_groups,
    read_pairs,
    require_columns,
    row_kind,
    write_groups,
    write_pairs,
)


def test_answers_that_repeat_their_prompt() -> None:
    rows = [
        {"prompt": "A b", "answers": ["A b c", "A  b d", "A b"], "rm_scores": [1, 3.5, 0]},
        {"prompt": "x", "answers": ["y", "z"], "rm_scores": [1, 2]},
    ]
    first, second = groups_from_rows(rows)
    assert (first.completions, first.scores, first.left_out) == ([" c", ""], [1.0, 0.0], 1)
    assert (second.completions, second.left_out) == ([], 2)
    pairs, counts = make_pairs([first, second], "all")
    assert counts == Counter(
        groups=2, small_groups=1, answers_without_prompt=3, candidates=1, made=1
    )
    with pytest.raises(ValueError, match="f, row 1: no answer begins with its prompt"):
        groups_from_rows(rows[1:], "f")


GOOD = {"prompt": "p", "completions": ["a", "b"], "scores": [1.0, 2.0]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scores": ...}, "no column scores; found prompt, completions"),
        ({"prompt": ...}, "no column prompt; found completions, scores"),
        ({"completions": ..., "answers": ["pa", "pb"]}, "no column rm_scores; found prompt, sc"),
        ({"prompt": 3}, "prompt must be a text, not int"),
        ({"prompt": None}, "prompt must be a text, not null"),
        ({"completions": "ab"}, "completions must be a list, not str"),
        ({"completions": ["a", None]}, r"completions\[1\] must be a text, not null"),
        ({"scores": [1, "2"]}, r"scores\[1\] must be a number, not str"),
        ({"scores": [1, float("nan")]}, r"scores\[1\] is nan, not a finite number"),
        ({"scores": [-float("inf"), 1]}, r"scores\[0\] is -inf, not a finite number"),
        ({"scores": [1]}, "2 completions but 1 scores"),
        ({"completions": ["a"], "scores": [1]}, "1 completions; a group needs at least two"),
        ({"truncated": [0, 1]}, r"truncated\[0\] must be true or false, not int"),
        ({"truncated": [True]}, "2 completions but 2 scores and 1 truncation marks"),
        ({"token_ids": [[1]]}, "2 completions but 1 lists of token_ids"),
        ({"token_ids": [[1], 2]}, r"token_ids\[1\] must be a list, not int"),
        ({"token_ids": [[1], [2, "3"]]}, r"token_ids\[1\]\[1\] must be an integer, not str"),
    ],
)
def test_malformed_groups(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    row = {name: value for name, value in (GOOD | change).items() if value is not ...}
    file = tmp_path / "groups.jsonl"
    file.write_text(f"{json.dumps(GOOD)}\n{json.dumps(row)}\n")
    with pytest.raises(ValueError, match=f"groups.jsonl, row 2: {message}") as caught:
        read_groups(file)
    assert "\n" not in str(caught.value)


MESSAGES = [[{"role": "user", "content": "q"}, {"role": "assistant", "content": a}] for a in "xy"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "p", "chosen": "a"}, "no column rejected; found prompt, chosen"),
        ({"chosen": "a", "rejected": None}, "must be texts or lists of messages"),
        ({"chosen": "a", "rejected": ["b"]}, "must be texts or lists of messages"),
        ({"prompt": "r", "chosen": MESSAGES[0], "rejected": MESSAGES[1]}, "texts beside lists of"),
        ({"chosen": "a", "rejected": "b", "tools": [{"name": "f"}]}, "tools are not supported"),
        ({"chosen": "a", "rejected": "b", "chosen_score": "1"}, "chosen_score must be a number"),
        ({"chosen": "a", "rejected": "b", "chosen_score": float("nan")}, "chosen_score is nan"),
        ({"chosen": "a", "rejected": "b", "rejected_truncated": 1}, "must be true or false"),
        (["a", "b"], "must hold named columns, not list"),
    ],
)
def test_malformed_pairs(row: Any, message: str, tmp_path: Path) -> None:
    file = tmp_path / "pairs.jsonl"
    file.write_text(json.dumps(row))
    with pytest.raises(ValueError, match=f"pairs.jsonl, row 1: .*{message}"):
        read_pairs(file)


def test_conversations_and_implicit_prompts_pass_through() -> None:
    rows: list[dict[str, Any]] = [
        {"chosen": MESSAGES[0], "rejected": MESSAGES[1]},
        {"prompt": MESSAGES[0][:1], "chosen": MESSAGES[0][1:], "rejected": MESSAGES[1][1:]},
        {"chosen": "Human: q\n\nAssistant: yes", "rejected": "Human: q\n\nAssistant: yellow"},
    ]
    pairs, counts = preferences_from_rows(rows)
    assert [pair.row() for pair in pairs] == rows
    copied = {"prompt": MESSAGES[0][0]["content"], **rows[0]}  # as in ultrafeedback_binarized
    assert preferences_from_rows([copied])[0] == pairs[:1]
    assert counts == Counter(candidates=3, made=3)
    assert get_prompt(pairs[0]) == get_prompt(pairs[1]) == MESSAGES[0][:1]
    assert get_prompt(pairs[2]) == "Human: q"


def test_kinds() -> None:
    assert row_kind(GOOD, "f") == "groups"
    assert row_kind({"chosen": 1, "rejected": 2}, "f") == "pairs"
    with pytest.raises(ValueError, match=r"f: neither pairs .* nor groups .* columns text, label"):
        row_kind({"text": "", "label": 1}, "f")
    assert preferences_from_rows([GOOD])[0] == [Pair("p", "b", "a", 2.0, 1.0, False, False)]
    with pytest.raises(ValueError, match="f: no rows"):
        pairs_from_rows([], "f")


def test_files_preserve_groups_and_pairs(tmp_path: Path) -> None:
    groups = [
        Group("p", ["a", "b"], [1.0, 2.0], [True, False]),
        Group("q\u0085", ["a", "b", "c"], [3.0, -1.5, 0.25], [True, False, True]),
    ]
    write_groups(tmp_path / "groups.jsonl", groups)
    assert read_groups(tmp_path / "groups.jsonl") == groups
    pairs, _ = make_pairs(groups, "all")
    write_pairs(tmp_path / "pairs.parquet", pairs)
    assert read_pairs(tmp_path / "pairs.parquet") == pairs


def test_columns() -> None:
    row = {"name": "x", "marks": [True], "n": True, "inf": float("inf")}
    with pytest.raises(ValueError, match="f, row 3: no column a, b; found name, marks, n, inf"):
        require_columns(row, ("a", "name", "b"), "f, row 3")
    with pytest.raises(ValueError, match="f, row 3: must hold named columns, not list"):
        require_columns([], ("a",), "f, row 3")
    with pytest.raises(ValueError, match=r"marks\[0\] must be a number, not bool"):
        get_list(row, "marks", (int, float), "f")
    with pytest.raises(ValueError, match="name must be a list, not str"):
        get_list(row, "name", str, "f")
    with pytest.raises(ValueError, match="n must be a number, not bool"):
        get_optional(row, "n", (int, float), "f")
    with pytest.raises(ValueError, match="inf is inf, not a finite number"):
        get_optional(row, "inf", (int, float), "f")
    assert get_list(row, "marks", bool, "f") == [True]
    assert get_optional(row, "none", bool, "f") is None
