"""Hypothesis strategies of JSON values and of rows of preference data with such values in them."""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Callable
from typing import Any

import hypothesis
from hypothesis import HealthCheck
from hypothesis import strategies as st

Row = dict[str, Any]

SEED = os.environ.get("HYPOTHESIS_SEED")
CHOSEN_SEED = SEED is not None or any("--hypothesis-seed" in word for word in sys.argv)


def outcome(function: Callable[[], Any], name: str) -> Any:
    """Returns a result, or None after an error that names the data; programs print it as a line."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return function()
        except ValueError as error:
            assert type(error) is ValueError, repr(error)
            assert name in str(error), str(error)
            return None


def examples(number: int) -> Callable[[Any], Any]:
    """Returns a decorator: so many examples, always the same unless a seed is given.

    ``HYPOTHESIS_SEED`` or ``--hypothesis-seed`` is the seed.
    """
    settings = hypothesis.settings(
        max_examples=number,
        derandomize=not CHOSEN_SEED,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )

    def decorate(test: Any) -> Any:
        seeded = hypothesis.seed(int(SEED))(test) if SEED is not None else test
        return settings(seeded)

    return decorate


STRANGE = (
    "", " ", "\0", "\ud800", "a\udfffb", "\ufeff", "\r\n", "a\u2028b", "<script>alert(1)</script>",
    "| a | b |\n---", "<|endoftext|>", "{{ messages }}", "\n\nHuman: a\n\nAssistant: b",
    "\n\nHuman: a\n\nAssistant:", "\n\nAssistant: b", "[{", "[]", "null", "nan", "1e999", "True",
    "x" * 20_000, "a b " * 2_000, "e\u0301" * 50, "\u202eabc", "../../etc/passwd", "\x1b[31mred",
)  # fmt: skip
texts = st.sampled_from(STRANGE) | st.text(st.characters(exclude_categories=()), max_size=20)
numbers = (
    st.integers()
    | st.sampled_from((2**31, -(2**31), 2**63, 2**64, 2**70, 10**400, -(10**400)))
    | st.floats()
    | st.sampled_from((1e30, -1e30, 1e308, -0.0, 5e-324))
)
scalars = st.none() | st.booleans() | numbers | texts


def _deep(value: Any, depth: int) -> Any:
    for _ in range(depth):
        value = [value]
    return value


values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(texts.filter(lambda text: len(text) < 100), inner, max_size=3)
    ),
    max_leaves=6,
) | st.builds(_deep, scalars, st.sampled_from((5, 100, 400)))
"""Any JSON value, with what Python's reader takes beyond it: NaN, infinities, huge integers."""

roles = st.sampled_from(("user", "assistant", "system", "tool", "Human", "")) | texts
messages = st.lists(
    st.fixed_dictionaries({"role": roles, "content": texts | values}), min_size=1, max_size=4
)
mostly = st.sampled_from(("a film", "a good film", "a bad film", "x", "y")) | texts
scores = st.floats(-9, 9) | numbers


def lists_of(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Any]]:
    """Lists of two or three values."""
    return st.lists(inner, min_size=2, max_size=3)


tokens = st.lists(st.integers(0, 300) | st.integers(), max_size=4)
PAIR: dict[str, st.SearchStrategy[Any]] = {
    "prompt": mostly, "chosen": mostly, "rejected": mostly, "chosen_score": scores,
    "rejected_score": scores, "chosen_truncated": st.booleans(), "rejected_truncated":
    st.booleans(), "chosen_token_ids": tokens, "rejected_token_ids": tokens, "system": texts,
    "chat_template_kwargs": st.dictionaries(st.sampled_from("ab"), scalars, max_size=2),
    "question": texts, "note": values,
}  # fmt: skip
CONVERSATION: dict[str, st.SearchStrategy[Any]] = {
    **PAIR, "prompt": messages | texts, "chosen": messages, "rejected": messages, "tools": values,
}  # fmt: skip
GROUP: dict[str, st.SearchStrategy[Any]] = {
    "prompt": mostly, "completions": lists_of(mostly), "scores": lists_of(scores),
    "truncated": lists_of(st.booleans()), "token_ids": lists_of(tokens), "answers":
    lists_of(mostly), "rm_scores": lists_of(scores), "system": texts, "split": texts,
}  # fmt: skip
IMAGES: dict[str, st.SearchStrategy[Any]] = {
    "caption": mostly, "chosen": st.sampled_from(("a.png", "b.png")) | texts, "rejected":
    st.sampled_from(("a.png", "b.png")) | texts, "chosen_score": scores, "prompt": mostly,
}  # fmt: skip
KINDS = {"pair": PAIR, "conversation": CONVERSATION, "group": GROUP, "images": IMAGES}
NEEDED = {
    "pair": ("prompt", "chosen", "rejected"), "conversation": ("prompt", "chosen", "rejected"),
    "group": ("prompt", "completions", "scores"), "images": ("caption", "chosen", "rejected"),
}  # fmt: skip


def rows(kind: str) -> st.SearchStrategy[list[Any]]:
    """Rows of a kind with the same columns, of which up to two hold any value in one of them."""
    columns, needed = KINDS[kind], NEEDED[kind]

    @st.composite
    def build(draw: st.DrawFn) -> list[Any]:
        more = [name for name in columns if name not in needed]
        names = [*needed, *draw(st.lists(st.sampled_from(more), max_size=3, unique=True))]
        made: list[Any] = [
            {name: draw(columns[name]) for name in names} for _ in range(draw(st.integers(1, 4)))
        ]
        for _ in range(draw(st.integers(0, 2))):
            row = draw(st.sampled_from(made))
            name = draw(st.sampled_from(names) | texts)
            change = draw(st.sampled_from(("value", "value", "remove")))
            if change == "value":
                row[name] = draw(values)
            else:
                row.pop(name, None)
        if draw(st.integers(0, 30)) == 0:  # a row that holds no columns
            made[-1] = draw(values)
        return made

    return build()


def lines(made: list[Any]) -> str:
    """Returns rows as JSONL; surrogates are escaped."""
    return "".join(json.dumps(row) + "\n" for row in made)
