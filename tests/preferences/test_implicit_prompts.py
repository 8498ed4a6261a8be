"""Prompts that both sides of a pair begin with: told apart, and noted once."""

from __future__ import annotations

import warnings

import pytest

from fdpo.preferences.implicit_prompts import explicit_pairs
from fdpo.preferences.pairs import Pair


def test_guessed_prompts_are_shown_in_one_example() -> None:
    pairs = [
        Pair("p", "a", "b"),
        Pair(None, "The film was good", "The film was bad"),
        Pair(None, "It is", "It was"),
        Pair(None, "yes", "no"),
    ]
    with pytest.warns(UserWarning) as notes:
        results = explicit_pairs(pairs, "f")
    assert [str(note.message) for note in notes] == [
        "f: 3 pairs have no prompt: it is what both sides share, up to the end of a line, sentence "
        "or word, as in row 2: 'The film was'; 2 are empty or below 10 characters"
    ]
    assert results == [
        pairs[0],
        Pair("The film was", " good", " bad"),
        Pair("It", " is", " was"),
        Pair("", "yes", "no"),
    ]


def test_scores_and_marks_stay() -> None:
    pair = Pair(None, "The film was good", "The film was bad", 2.0, 1.0, True, False)
    assert explicit_pairs([pair]) == [Pair("The film was", " good", " bad", 2.0, 1.0, True, False)]


def test_texts_that_repeat_their_prompt() -> None:
    pair = Pair("The film was", "The film was good", "The film was bad")
    with pytest.warns(
        UserWarning, match="^f: the sides of 1 pairs hold their prompt; it stands once$"
    ):
        assert explicit_pairs([pair], "f") == [Pair("The film was", " good", " bad")]
    unchanged = [
        Pair("The film was", "The film was good", " bad"),
        Pair("I", "I see", "I hear"),  # it may be a chance
        Pair("The film was", "The film was good", "The film was bad", None, None, None, None, [3]),
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert explicit_pairs(unchanged) == unchanged


def test_questions_within_the_sides_are_not_trained_on() -> None:
    first, again, more = ({"role": "user", "content": text} for text in ("q", "r", "s"))
    good, bad, other = ({"role": "assistant", "content": text} for text in "abc")
    pair = Pair([first], [other, again, good], [other, again, bad])
    assert explicit_pairs([pair]) == [Pair([first, other, again], [good], [bad])]
    given = Pair([first], [good, again, good], [bad, more, bad])
    assert explicit_pairs([given]) == [given]
    tools = Pair([first], [good, {"role": "tool", "content": "r"}, other], [bad])
    assert explicit_pairs([tools]) == [tools]


def test_conversations_need_no_note() -> None:
    user, *sides = ({"role": role, "content": role} for role in ("user", "assistant", "assistant"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pairs = explicit_pairs([Pair(None, [user, sides[0]], [user, {**sides[1], "content": "b"}])])
    assert [pair.prompt for pair in pairs if isinstance(pair, Pair)] == [[user]]


def test_obstacles_stand_in_place_of_pairs() -> None:
    dialogues = Pair(None, "\n\nHuman: a\n\nAssistant: b", "\n\nHuman: c\n\nAssistant: b")
    assert explicit_pairs([dialogues, Pair("p", "a", "b")]) == [
        "different_prompts",
        Pair("p", "a", "b"),
    ]
