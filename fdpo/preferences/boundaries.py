"""Boundaries between prompt and response, where both sides of a pair begin with the prompt.

A dialogue is answered by its last turn: its prompt is everything before that turn. Dialogues are
conversations (lists of messages) and the transcripts of Anthropic's HH,

.. code-block:: text

    \\n\\nHuman: …\\n\\nAssistant: …\\n\\nHuman: …\\n\\nAssistant: …

whose prompt ends with the last ``Assistant:``. Of any other text the prompt is guessed: it is
shared by both sides and ends where a line, else a sentence, else a word ends.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from os.path import commonprefix
from typing import Any, Literal, NamedTuple

Text = str | list[dict[str, Any]]
"""A text (or a path), or a conversation: a list of ``{"role": ..., "content": ...}``."""

Obstacle = Literal["different_prompts", "without_response"]
"""The reason why a pair has no prompt: its sides answer other prompts, or one answers nothing."""

SYSTEM_ROLES = {"system", "developer"}
QUESTION_ROLES = {"user", "human"}
START_ROLES = QUESTION_ROLES | SYSTEM_ROLES  # of a whole conversation
PROMPT_ROLES = START_ROLES | {"tool", "function"}

TURN = re.compile(r"(?:\A\s*|\n\r?\n)(Human|Assistant):")
LINE_END = re.compile(r"\n")
SENTENCE_END = re.compile(r"""[.!?…]["'”’)\]]*(?=\s)|[。！？]["'”’」』）]*""")
WORD_END = re.compile(r"(?<=\S)(?=\s)")


class Split(NamedTuple):
    """A prompt and the responses of both sides; ``guessed`` where no turn told them apart."""

    prompt: Text
    chosen: Text
    rejected: Text
    guessed: bool = False


def split_off_prompt(chosen: Text, rejected: Text) -> Split | Obstacle:
    """Splits the prompt off two sides that begin with it, both texts or both conversations.

    Example:
        >>> split_off_prompt("Was it good? Yes.", "Was it good? You bet.").prompt
        'Was it good?'
        >>> split_off_prompt("\\n\\nHuman: a\\n\\nAssistant: b", "\\n\\nHuman: c\\n\\nAssistant: d")
        'different_prompts'
    """
    if isinstance(chosen, str) and isinstance(rejected, str):
        transcripts = is_transcript(chosen) and is_transcript(rejected)
        return (_split_transcripts if transcripts else _split_texts)(chosen, rejected)
    assert not isinstance(chosen, str) and not isinstance(rejected, str)
    return _split_conversations(chosen, rejected)


def is_transcript(text: str) -> bool:
    """Returns whether a text is a dialogue as HH writes it: its first turn is the human's."""
    first = TURN.search(text)
    return first is not None and first[1] == "Human"


def first_question(prompt: Text) -> Text:
    """Returns the beginning of a prompt that the longer forms of its dialogue share.

    That is the first message of the user, or a transcript up to its first response; of any other
    text it is all of it.

    Example:
        >>> first_question("\\n\\nHuman: a\\n\\nAssistant: b\\n\\nHuman: c\\n\\nAssistant:")
        '\\n\\nHuman: a'
    """
    if not isinstance(prompt, str):
        return [message for message in prompt if has_role(message, QUESTION_ROLES)][:1] or prompt
    if not is_transcript(prompt):
        return prompt
    turns = TURN.finditer(prompt)
    return prompt[: next((turn.start() for turn in turns if turn[1] == "Assistant"), len(prompt))]


def has_role(message: Mapping[str, Any], roles: Collection[str]) -> bool:
    """Returns whether the role of a message is one of some, in capitals or not."""
    return str(message["role"]).lower() in roles


def _split_transcripts(chosen: str, rejected: str) -> Split | Obstacle:
    ends = []
    for side in (chosen, rejected):
        *_, last = TURN.finditer(side)
        if last[1] == "Human" or not side[last.end() :].strip():
            return "without_response"
        ends.append(last.end())
    prompt, other = chosen[: ends[0]], rejected[: ends[1]]
    if prompt != other:
        return "different_prompts"
    return Split(prompt, chosen[ends[0] :], rejected[ends[1] :])


def _split_conversations(
    chosen: list[dict[str, Any]], rejected: list[dict[str, Any]]
) -> Split | Obstacle:
    ends = []
    for side in (chosen, rejected):
        answers = [i for i, message in enumerate(side) if not has_role(message, PROMPT_ROLES)]
        if not answers or has_role(side[-1], QUESTION_ROLES) or _is_blank(side[-1]):
            return "without_response"
        ends.append(answers[-1])
    shared = 0  # calls of tools and their results may follow it, but no question
    while shared < min(ends) and chosen[shared] == rejected[shared]:
        shared += 1
    later = chosen[shared:] + rejected[shared:]
    if not shared or any(has_role(message, QUESTION_ROLES) for message in later):
        return "different_prompts"
    return Split(chosen[:shared], chosen[shared:], rejected[shared:])


def _is_blank(message: dict[str, Any]) -> bool:
    content = message.get("content")
    return isinstance(content, str) and not content.strip() and not message.get("tool_calls")


def _split_texts(chosen: str, rejected: str) -> Split:
    shared = commonprefix([chosen, rejected])
    # Something is left for either response.
    longest = max(0, min(len(shared), len(chosen.rstrip()) - 1, len(rejected.rstrip()) - 1))
    for boundary in (LINE_END, SENTENCE_END, WORD_END):
        ends = [match.end() for match in boundary.finditer(shared) if match.end() <= longest]
        if ends and shared[: ends[-1]].strip():
            break
    else:
        ends = [0]
    end = ends[-1]
    return Split(shared[:end], chosen[end:], rejected[end:], guessed=True)
