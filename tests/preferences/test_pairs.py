"""Groups, rank rules, accounting of every candidate, splits, and what is refused."""

import itertools
import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from fdpo.preferences.pairs import (
    RULES,
    Group,
    Pair,
    describe,
    get_prompt,
    make_pairs,
    rank_pairs,
    split_by_prompt,
    usable_pairs,
)
from fdpo.preferences.schema import (
    groups_from_rows,
    pairs_from_rows,
    preferences_from_rows,
    read_groups,
    read_pairs,
    row_kind,
    write_groups,
    write_pairs,
)

REASONS = ("made", "equal_texts", "equal_scores", "small_gap", "repeated")


def group(*scores: float, prompt: str = "p", texts: str = "abcdefgh") -> Group:
    marks = [i % 2 == 0 for i in range(len(scores))]
    return Group(prompt, list(texts[: len(scores)]), list(scores), marks)


def test_slic_hf_pairs() -> None:
    assert rank_pairs(6, "top_bottom", 3, 4) == [(0, 3), (0, 4), (0, 5), (1, 5), (2, 5), (3, 5)]


@pytest.mark.parametrize("n", range(7))
def test_rank_rules(n: int) -> None:
    """Every rule, against its definition in words."""
    every = list(itertools.combinations(range(n), 2))
    assert rank_pairs(n, "all") == every
    assert rank_pairs(n, "best_worst") == ([(0, n - 1)] if n > 1 else [])
    for k, k_top in itertools.product(range(1, 8), repeat=2):
        expected = [
            (i, j) for i, j in every if (i == 0 and j >= n - k) or (j == n - 1 and i < k_top)
        ]
        assert rank_pairs(n, "top_bottom", k, k_top) == expected


def test_pairs_carry_scores_and_marks() -> None:
    pairs, _ = make_pairs([group(0.1, 3.0, -2.0)], "best_worst")
    assert pairs == [Pair("p", "b", "c", 3.0, -2.0, False, True)]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("seed", range(5))
def test_every_candidate_is_accounted_for(rule: str, seed: int) -> None:
    draw = random.Random(seed)
    groups = [
        group(
            *(draw.randint(0, 3) for _ in range(draw.randint(2, 6))),
            prompt=str(draw.randint(0, 9)),
            texts="".join(draw.choice("abc") for _ in range(6)),
        )
        for _ in range(40)
    ]
    pairs, counts = make_pairs(groups, rule, k=2, min_gap=1.5)
    candidates = sum(len(rank_pairs(len(g.scores), rule, 2)) for g in groups)
    assert counts["candidates"] == candidates == sum(counts[reason] for reason in REASONS)
    assert counts["made"] == len(pairs) == len({(p.prompt, p.chosen, p.rejected) for p in pairs})
    assert counts["groups"] == 40
    for pair in pairs:
        assert pair.chosen != pair.rejected
        assert pair.chosen_score is not None and pair.rejected_score is not None
        assert pair.chosen_score - pair.rejected_score >= 1.5
    if rule == "all":
        assert all(counts[reason] for reason in REASONS)


def test_reasons() -> None:
    groups = [group(1.0, 1.0, prompt="x"), group(2.0, 1.0, texts="aa"), group(1.1, 1.0, prompt="y")]
    twice = group(2.0, 0.0, prompt="z")
    pairs, counts = make_pairs([*groups, twice, twice], min_gap=0.5)
    assert counts == Counter(
        groups=5, candidates=5, made=1, equal_scores=1, equal_texts=1, small_gap=1, repeated=1
    )
    assert describe(counts) == (
        "1 pairs made of 5 candidates of 5 groups; dropped: 1 equal scores, 1 equal texts, "
        "1 small gap, 1 repeated"
    )


def test_nothing_left() -> None:
    with pytest.raises(ValueError, match=r"f.jsonl: no pair is left \(.*12 equal scores\)"):
        make_pairs([group(1, 1, 1, prompt=p) for p in "abcd"], "all", source="f.jsonl")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("best",), "unknown rank rule 'best'; there is top_bottom, best_worst, all"),
        (("top_bottom", 0), "k and k_top must be at least 1, not 0 and 4"),
        (("top_bottom", 2, 0), "must be at least 1, not 2 and 0"),
    ],
)
def test_wrong_rules(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rank_pairs(6, *arguments)


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


def test_files_keep_groups_and_pairs(tmp_path: Path) -> None:
    groups = [group(1.0, 2.0), group(3.0, -1.5, 0.25, prompt="q\u0085")]
    write_groups(tmp_path / "groups.jsonl", groups)
    assert read_groups(tmp_path / "groups.jsonl") == groups
    pairs, _ = make_pairs(groups, "all")
    write_pairs(tmp_path / "pairs.parquet", pairs)
    assert read_pairs(tmp_path / "pairs.parquet") == pairs


def test_split_is_by_prompt_and_by_seed_alone() -> None:
    pairs = [Pair(f"prompt {i % 50}", f"a{i}", "b") for i in range(200)]
    train, test = split_by_prompt(pairs, 0.1, seed=3)
    held_out = {pair.prompt for pair in test}
    assert len(held_out) == 5 and not held_out & {pair.prompt for pair in train}
    assert sorted(map(repr, train + test)) == sorted(map(repr, pairs))
    shuffled = random.Random(0).sample(pairs, len(pairs))
    assert {p.prompt for p in split_by_prompt(shuffled, 0.1, seed=3)[1]} == held_out
    assert {p.prompt for p in split_by_prompt(pairs, 0.1, seed=4)[1]} != held_out
    assert split_by_prompt(pairs, 0.0) == (pairs, [])
    assert split_by_prompt(pairs[:2], 0.01)[1]


def test_wrong_splits() -> None:
    with pytest.raises(ValueError, match=r"a share of the prompts in \[0, 1\), not 1"):
        split_by_prompt([], 1)
    with pytest.raises(ValueError, match="cannot split 1 prompt"):
        split_by_prompt([Pair("p", "a", "b"), Pair("p", "a", "c")], 0.5)


def test_real_groups(data_dir: Path) -> None:
    """slic-hf's rule on its real scored completions: each of the 3,000 answers is accounted for."""
    groups = read_groups(data_dir / "gpt2_imdb_scored/scored_500.jsonl.gz")
    assert sum(len(g.completions) + g.left_out for g in groups) == 3000
    pairs, counts = make_pairs(groups, "top_bottom", k=3, k_top=4)
    assert counts == Counter(
        groups=500,
        small_groups=5,
        answers_without_prompt=37,
        candidates=2960,
        made=2926,
        equal_texts=18,
        repeated=16,
    )
    train, test = split_by_prompt(pairs, 0.2)
    assert not {p.prompt for p in train} & {p.prompt for p in test}


def test_real_dialogues(data_dir: Path) -> None:
    pairs = read_pairs(data_dir / "hh/helpful-base_test.jsonl.gz")
    usable, counts = usable_pairs(pairs)
    assert counts == Counter(candidates=2354, made=2352, equal_texts=2)
    turn = [str(pair.chosen).startswith(f"{get_prompt(pair)}\n\nAssistant:") for pair in usable]
    assert turn.count(False) <= 9  # pairs that do not share their prompt
