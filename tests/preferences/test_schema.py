"""Rows as groups and pairs: what is read, and an error for every malformed row."""

import json
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from fdpo.preferences.pairs import Group, Pair, PairingConfig, make_pairs
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


GAP = PairingConfig(min_gap=2)
MESSAGES = [[{"role": "user", "content": "q"}, {"role": "assistant", "content": a}] for a in "xy"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "p", "chosen": "a"}, "no column rejected; found prompt, chosen"),
        (
            {"chosen": [{"role": "assistant"}], "rejected": MESSAGES[0]},
            r"chosen\[0\] \(role assistant\) has no content; found role",
        ),
        (
            {"chosen": MESSAGES[0], "rejected": [*MESSAGES[1], {"role": "user", "content": None}]},
            r"rejected\[2\] \(role user\) has no content; found role",
        ),
        (
            {"prompt": [{"from": "human", "value": "q"}], "chosen": "a", "rejected": "b"},
            r"prompt\[0\] has no role; found from, value",
        ),
        (
            {"chosen": [{"role": "assistant", "content": 3}], "rejected": MESSAGES[0]},
            r"chosen\[0\]: content must be a text, not int",
        ),
        ({"chosen": {"from": "gpt"}, "rejected": "b"}, "or lists of messages, but chosen is dict"),
        ({"chosen": "a", "rejected": "b", "system": 3}, "system must be a text, not int"),
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


def test_prompts_of_pairs_that_begin_with_theirs() -> None:
    asked, prompt, sides = MESSAGES[0][0]["content"], MESSAGES[0][:1], [m[1:] for m in MESSAGES]
    explicit = Pair(prompt, sides[0], sides[1])
    rows: list[dict[str, Any]] = [
        {"chosen": MESSAGES[0], "rejected": MESSAGES[1]},
        {"prompt": None, "chosen": MESSAGES[0], "rejected": MESSAGES[1]},
        {"prompt": prompt, "chosen": sides[0], "rejected": sides[1]},
        {"prompt": prompt, "chosen": MESSAGES[0], "rejected": MESSAGES[1]},
        {"prompt": prompt, "chosen": MESSAGES[0], "rejected": sides[1]},
        {"prompt": asked, "chosen": MESSAGES[0], "rejected": MESSAGES[1]},  # ultrafeedback's
        {"prompt": asked, "chosen": sides[0], "rejected": sides[1]},
    ]
    for row in rows:
        assert preferences_from_rows([row])[0] == [explicit], row
    text = {"chosen": "Human: q\n\nAssistant: yes", "rejected": "Human: q\n\nAssistant: yellow"}
    [pair], counts = preferences_from_rows([text])
    assert pair == Pair("Human: q\n\nAssistant:", " yes", " yellow")
    assert counts == Counter(candidates=1, made=1)


def test_texts_and_dialogues_do_not_mix() -> None:
    rows: list[dict[str, Any]] = [
        {"chosen": "x a", "rejected": "x b"},
        {"chosen": MESSAGES[0], "rejected": MESSAGES[1]},
    ]
    with pytest.raises(ValueError, match="f, row 2: a list of messages, but row 1 is a text"):
        preferences_from_rows(rows, "f")
    with pytest.raises(ValueError, match="f, row 2: a text, but row 1 is a list of messages"):
        preferences_from_rows(rows[::-1], "f")


def test_arguments_of_the_chat_template_are_read(tmp_path: Path) -> None:
    row: dict[str, Any] = {"prompt": "p", "chosen": "a", "rejected": "b"}
    pairs = pairs_from_rows(
        [{**row, "chat_template_kwargs": {"enable_thinking": False, "other": None}}, row]
    )
    assert [pair.chat_template_kwargs for pair in pairs] == [{"enable_thinking": False}, None]
    assert preferences_from_rows([pair.row() for pair in pairs])[0] == pairs  # none is repeated
    for name in ("pairs.parquet", "pairs.jsonl", "pairs.csv"):
        write_pairs(tmp_path / name, pairs)
        assert read_pairs(tmp_path / name) == pairs


def test_scores_of_the_hub(tmp_path: Path) -> None:
    rows = [
        {"prompt": f"p{i}", "chosen": "a", "rejected": "b", "score_chosen": 5, "score_rejected": j}
        for i, j in enumerate([5, 5, 1, 4])
    ]
    with pytest.warns(UserWarning, match="under other names: score_chosen as chosen_score"):
        pairs, counts = preferences_from_rows(rows, pairing=PairingConfig(min_gap=2))
    assert [pair.prompt for pair in pairs] == ["p2"] and pairs[0].chosen_score == 5
    assert counts == Counter(candidates=4, made=1, equal_scores=2, small_gap=1)
    with pytest.raises(ValueError, match="f: min_gap 2 compares scores, and no pair has them"):
        preferences_from_rows([row | {"score_chosen": None} for row in rows], "f", GAP)


def test_columns_under_other_names() -> None:
    sides = {"chosen": "The film was good.", "rejected": "The film was bad."}
    orca = {"system": "You are a critic.", "question": "Was it any good?", **sides}
    with pytest.warns(UserWarning) as notes:
        [pair], _ = preferences_from_rows([orca], "f")
    assert pair.prompt == "You are a critic.\n\nWas it any good?"
    assert [str(note.message) for note in notes] == [
        "f: columns are read under other names: question as prompt",
        "f: each prompt begins with the text of the column system",
    ]
    alpaca = {"instruction": "Review it.", "input": "A film.", **sides}
    short = {"instruction": "Review.", "input": "", **sides}
    pairs, _ = preferences_from_rows([alpaca, short])
    assert [pair.prompt for pair in pairs] == ["Review it.\n\nA film.", "Review."]
    others: dict[str, Any] = {
        "query": "q",
        "preferred": "a",
        "dispreferred": "b",
        "system_prompt": None,
    }
    assert preferences_from_rows([others])[0] == [Pair("q", "a", "b")]
    group: dict[str, Any] = {"question": "q", "completions": ["a", "b"], "scores": [1, 2]}
    assert preferences_from_rows([group])[0] == [Pair("q", "b", "a", 2.0, 1.0, False, False)]


def test_system_messages() -> None:
    system = {"role": "system", "content": "s"}
    user, (chosen, rejected) = MESSAGES[0][0], (side[1:] for side in MESSAGES)
    expected = [Pair([system, user], chosen, rejected)]
    whole = [[system, *side] for side in MESSAGES]
    rows: list[dict[str, Any]] = [
        {"system": "s", "prompt": [user], "chosen": chosen, "rejected": rejected},
        {"system": "s", "chosen": MESSAGES[0], "rejected": MESSAGES[1]},
        {"system": "s", "chosen": whole[0], "rejected": whole[1]},
        {"prompt": [system, user], "chosen": MESSAGES[0], "rejected": MESSAGES[1]},
        {"prompt": [system], "chosen": MESSAGES[0], "rejected": MESSAGES[1]},
        {"prompt": [user], "chosen": whole[0], "rejected": whole[1]},
        {"prompt": "q", "chosen": whole[0], "rejected": whole[1]},
    ]
    for row in rows:
        assert preferences_from_rows([row])[0] == expected, row


def test_columns_that_nothing_reads() -> None:
    sides = {"chosen": "It was a good film.", "rejected": "It was a bad film."}
    row: dict[str, Any] = {"ask": "Was it any good?", "id": "a1", "source": "web", **sides}
    with pytest.raises(ValueError, match="^f: no column prompt, but ask: rename the one that"):
        preferences_from_rows([row], "f")
    with pytest.warns(UserWarning, match="f: columns that are not used: ask, id, source$"):
        preferences_from_rows([{**row, "prompt": "p"}], "f")
    history = [{"role": "user", "content": "q"}]
    with pytest.raises(ValueError, match="^f: no column prompt, but history: rename"):
        preferences_from_rows([{"history": history, **sides}], "f")
    group = {"prompt": "p", "completions": ["a", "b"], "scores": [1.0, 2.0], "topic": "films"}
    with pytest.warns(UserWarning, match="f: columns that are not used: topic$"):
        preferences_from_rows([group], "f")
    copies: dict[str, Any] = {"prompt": "p", "caption": "p", "response": sides["chosen"], **sides}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        preferences_from_rows([copies], "f")


def test_kinds() -> None:
    assert row_kind(GOOD, "f") == "groups"
    assert row_kind({"chosen": 1, "rejected": 2}, "f") == "pairs"
    with pytest.raises(ValueError, match=r"f: neither pairs .* nor groups .* columns text, label"):
        row_kind({"text": "", "label": 1}, "f")
    assert preferences_from_rows([GOOD])[0] == [Pair("p", "b", "a", 2.0, 1.0, False, False)]
    with pytest.raises(ValueError, match="f: no rows"):
        pairs_from_rows([], "f")


def test_the_first_row_does_not_decide_alone() -> None:
    rows: list[Any] = [{"prompt": "p"}, {"prompt": "p", "chosen": "a", "rejected": "b"}]
    with pytest.raises(ValueError, match="f, row 1: no column chosen, rejected; found prompt"):
        preferences_from_rows(rows, "f")
    with pytest.raises(ValueError, match="f, row 1: no column completions, scores; found prompt"):
        preferences_from_rows([rows[0], GOOD], "f")
    for wrong in ("text", [["a"]], 3):
        with pytest.raises(ValueError, match="f, row 1: must hold named columns, not"):
            preferences_from_rows([wrong, rows[1]], "f")  # type: ignore[list-item]


def test_files_preserve_groups_and_pairs(tmp_path: Path) -> None:
    groups = [
        Group("p", ["a", "b"], [1.0, 2.0], [True, False]),
        Group("q\u0085", ["a", "b", "c"], [3.0, -1.5, 0.25], [True, False, True]),
    ]
    write_groups(tmp_path / "groups.jsonl", groups)
    assert read_groups(tmp_path / "groups.jsonl") == groups
    pairs, _ = make_pairs(groups, "all")
    dialogue = Pair(MESSAGES[0][:1], MESSAGES[0][1:], MESSAGES[1][1:], None, None, True, False)
    pairs += [Pair("5", "1", "[2]", chosen_token_ids=[7, 8], rejected_token_ids=[9])]
    for name in ("pairs.parquet", "pairs.jsonl.gz", "pairs.csv"):
        for written in (pairs, [dialogue]):
            write_pairs(tmp_path / name, written)
            assert read_pairs(tmp_path / name) == written
    write_groups(tmp_path / "groups.csv", groups)
    assert read_groups(tmp_path / "groups.csv") == groups


def test_a_csv_file_may_leave_out_values(tmp_path: Path) -> None:
    header = "prompt,chosen,rejected,chosen_score,rejected_score,chosen_truncated"
    (tmp_path / "a.csv").write_text(f"{header}\n,x a,x b,,,\np,a,b,1,0.5,True\n")
    assert read_pairs(tmp_path / "a.csv") == [
        Pair(None, "x a", "x b"),
        Pair("p", "a", "b", 1, 0.5, True),
    ]
    (tmp_path / "a.csv").write_text(f"{header}\np,a,b,high,low,\n")
    with pytest.raises(ValueError, match="a.csv, row 1: chosen_score must be a number, not str"):
        read_pairs(tmp_path / "a.csv")


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
