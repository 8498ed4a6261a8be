"""Boundaries between prompt and response: transcripts, conversations, other texts."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from fdpo.preferences.boundaries import Split, first_question, is_transcript, split_off_prompt

HUMAN, ASSISTANT = "\n\nHuman:", "\n\nAssistant:"


@pytest.mark.parametrize(
    ("chosen", "rejected", "prompt"),
    [
        ("It was good.", "It was bad.", "It was"),
        ("A film. It was good.", "A film. It was bad.", "A film."),
        ("Was it good?\nYes, you", "Was it good?\nYes, we", "Was it good?\n"),
        ("Q: Was it.\nA: Yes. It is", "Q: Was it.\nA: Yes. No", "Q: Was it.\n"),
        ('He said "no." Then he', 'He said "no." Then she', 'He said "no."'),
        ("Version 2.5 is good", "Version 2.5 is bad", "Version 2.5 is"),
        ("yellow", "yes", ""),
        ("a", "b", ""),
        ("The same", "The same and more", "The"),
        ("The same ", "The same", "The"),
        ("Same", "Same", ""),
        ("\nThe film was", "\nThe film is", "\nThe film"),
        ("好看吗？很好看", "好看吗？很难看", "好看吗？"),
        ("tab\tone", "tab\ttwo", "tab"),
    ],
)
def test_texts(chosen: str, rejected: str, prompt: str) -> None:
    assert split_off_prompt(chosen, rejected) == Split(
        prompt, chosen.removeprefix(prompt), rejected.removeprefix(prompt), guessed=True
    )


def test_guessed_prompts_end_at_words() -> None:
    """No word is cut and something is left of both sides, whatever they are."""
    words = ["a", " a", " bc", "b ", ".", "\n", "? ", "x!"]
    texts = ["".join(parts) for n in (2, 3, 4) for parts in itertools.product(words, repeat=n)]
    for chosen, rejected in itertools.product(texts[::7], texts[::11]):
        split = split_off_prompt(chosen, rejected)
        assert isinstance(split, Split) and split.guessed
        prompt = str(split.prompt)
        for side, response in ((chosen, split.chosen), (rejected, split.rejected)):
            assert prompt + str(response) == side
            if prompt:
                assert str(response).strip()
                assert prompt[-1] == "\n" or str(response)[0].isspace()


@pytest.mark.parametrize("start", ["\n\nHuman:", "Human:", "  Human:", "A system text.\n\nHuman:"])
def test_transcripts(start: str) -> None:
    """The prompt ends at the last turn of both sides, whatever the responses share."""
    prompt = f"{start} q{ASSISTANT} You{HUMAN} r{ASSISTANT}"
    assert is_transcript(prompt)
    for responses in ((" You are", " You were"), (" ok", " ok"), ("x", "xy"), (" a\n\nb", " c")):
        sides = [prompt + response for response in responses]
        assert split_off_prompt(*sides) == Split(prompt, *responses)


@pytest.mark.parametrize(
    ("chosen", "rejected", "obstacle"),
    [
        (f"{HUMAN} a{ASSISTANT} b", f"{HUMAN} c{ASSISTANT} b", "different_prompts"),
        (f"{HUMAN} a{ASSISTANT} b", f"{HUMAN} a{ASSISTANT} b{HUMAN} c{ASSISTANT} d", "different"),
        (f"{HUMAN} a{ASSISTANT} b", f"{HUMAN} a{ASSISTANT} ", "without_response"),
        (f"{HUMAN} a{ASSISTANT} b{HUMAN} c", f"{HUMAN} a{ASSISTANT} b{HUMAN} d", "without"),
        (f"{HUMAN} a b", f"{HUMAN} a c", "without_response"),
    ],
)
def test_transcripts_without_a_prompt(chosen: str, rejected: str, obstacle: str) -> None:
    for sides in ((chosen, rejected), (rejected, chosen)):
        assert str(split_off_prompt(*sides)).startswith(obstacle)


def test_texts_that_mention_turns_are_no_transcripts() -> None:
    for text in (f"a{ASSISTANT} b", "The Human: a", f"{ASSISTANT} hi{HUMAN} a", "x\nHuman: a"):
        assert not is_transcript(text)


def messages(turns: str) -> list[dict[str, Any]]:
    """Messages as a text: ``u1 a2`` are a user's and an assistant's message."""
    roles = {"s": "system", "u": "user", "a": "assistant", "t": "tool"}
    return [{"role": roles[turn[0]], "content": turn[1:]} for turn in turns.split()]


@pytest.mark.parametrize(
    ("chosen", "rejected", "prompt"),
    [
        ("u1 a2", "u1 a3", "u1"),
        ("s0 u1 a2 u3 a4", "s0 u1 a2 u3 a5", "s0 u1 a2 u3"),
        ("u1 a2", "u1 a2", "u1"),
        ("u1 a2 a3", "u1 a2 a4", "u1 a2"),
        ("u1 a2 t3 a4", "u1 a5", "u1"),  # one side calls a tool
        ("u1 a2 t3 a4", "u1 a2 t3 a4", "u1 a2 t3"),
        ("u1 a2", "u3 a2", "different_prompts"),
        ("a1", "a2", "different_prompts"),
        ("u1 a2 u3 a4", "u1 a5 u6 a7", "different_prompts"),
        ("u1 a2", "u1 a2 u3 a4", "different_prompts"),
        ("u1 a2 u3", "u1 a2 u4", "without_response"),
        ("u1", "u1", "without_response"),
        ("u1 a", "u1 a2", "without_response"),
    ],
)
def test_conversations(chosen: str, rejected: str, prompt: str) -> None:
    sides = messages(chosen), messages(rejected)
    split = split_off_prompt(*sides)
    if isinstance(split, str):
        assert split == prompt
    else:
        length = len(messages(prompt))
        assert split == Split(messages(prompt), sides[0][length:], sides[1][length:])


def test_other_roles_answer() -> None:
    sides = ([{"role": "User", "content": "q"}, {"role": "model", "content": c}] for c in "ab")
    assert split_off_prompt(*sides).prompt == [{"role": "User", "content": "q"}]  # type: ignore[union-attr]


def test_transcripts_of_other_line_ends() -> None:
    prompt = "Human: q\r\n\r\nAssistant:"
    assert split_off_prompt(f"{prompt} You are", f"{prompt} You were") == Split(
        prompt, " You are", " You were"
    )


def test_first_questions() -> None:
    assert first_question(messages("s0 u1 a2 u3")) == messages("u1")
    assert first_question(messages("s0")) == messages("s0")
    assert first_question(f"{HUMAN} a{ASSISTANT} b{HUMAN} c{ASSISTANT}") == f"{HUMAN} a"
    assert first_question(f"{HUMAN} a") == f"{HUMAN} a"
    assert first_question("any text") == "any text"
