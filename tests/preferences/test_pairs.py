"""Groups, rank rules, accounting of every candidate, splits, and what is refused."""

import itertools
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from fdpo.preferences.implicit_prompts import explicit_pairs
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
    read_groups,
    read_pairs,
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
        (("best",), "unknown rank rule 'best'; choose from top_bottom, best_worst, all"),
        (("top_bottom", 0), "k and k_top must be at least 1, not 0 and 4"),
        (("top_bottom", 2, 0), "must be at least 1, not 2 and 0"),
    ],
)
def test_wrong_rules(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rank_pairs(6, *arguments)


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


def test_scores_that_a_gap_compares() -> None:
    pairs = [Pair("p", "a", "b", 3.0, 1.0), Pair("p", "a", "c", 1.5, 1.0), Pair("p", "a", "d")]
    usable, counts = usable_pairs(pairs, 2.0)
    assert usable == pairs[:1]
    assert counts == Counter(candidates=3, made=1, small_gap=1, unscored=1)
    assert usable_pairs(pairs)[0] == pairs
    with pytest.raises(ValueError, match="f: min_gap 2 compares scores, and no pair has them"):
        usable_pairs(pairs[2:], 2.0, "f")


def test_dialogues_are_split_by_their_first_question() -> None:
    turns = [f"\n\nHuman: q{i}\n\nAssistant: a{i}" for i in range(3)]
    longer = ["\n\nHuman: q0\n\nAssistant:", turns[0] + "\n\nHuman: more\n\nAssistant:"]
    assert {get_prompt(Pair(prompt, "a", "b")) for prompt in longer} == {"\n\nHuman: q0"}
    assert get_prompt(Pair(None, turns[0], turns[0] + "!")) == "\n\nHuman: q0"
    system, user, reply = (
        {"role": role, "content": role} for role in ("system", "user", "assistant")
    )
    more = {"role": "user", "content": "more"}
    for prompt in ([user], [system, user], [user, reply, more], [system, user, reply, more]):
        assert get_prompt(Pair(prompt, [reply], [reply])) == [user]
    assert get_prompt(Pair([system], [reply], [reply])) == [system]


def test_a_question_that_begins_every_dialogue_splits_none() -> None:
    user, reply = {"role": "user", "content": "hi"}, [{"role": "assistant", "content": "a"}]
    pairs = [Pair([user, {"role": "user", "content": str(i)}], reply, reply) for i in range(10)]
    train, test = split_by_prompt(pairs, 0.2)
    assert (len(train), len(test)) == (8, 2)


def test_real_dialogues(data_dir: Path) -> None:
    """Every row of HH has its reason, and splits are by its 2,207 first questions."""
    pairs = read_pairs(data_dir / "hh/helpful-base_test.jsonl.gz")
    assert len({get_prompt(pair) for pair in pairs}) == 2207
    with pytest.warns(UserWarning, match="HH: 2,341 transcripts; a prompt ends where the last"):
        usable, counts = usable_pairs(explicit_pairs(pairs, "HH"))
    assert counts == Counter(
        candidates=2354, made=2339, equal_texts=2, different_prompts=9, without_response=4
    )
    originals = {(pair.chosen, pair.rejected) for pair in pairs}
    for pair in usable:
        prompt, sides = str(pair.prompt), (str(pair.chosen), str(pair.rejected))
        assert prompt.endswith("\n\nAssistant:")
        assert all(side.startswith(" ") and "\n\nAssistant:" not in side for side in sides)
        assert (prompt + sides[0], prompt + sides[1]) in originals
    train, test = split_by_prompt(usable, 0.1)
    assert not {get_prompt(pair) for pair in train} & {get_prompt(pair) for pair in test}
