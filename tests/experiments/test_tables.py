"""Tables of results, as Markdown."""

from __future__ import annotations

import pytest

from experiments import tables


@pytest.mark.parametrize(
    ("question", "words"),
    [
        ("gain at kl 5", "reward at 5 nats of reverse KL"),
        ("distinct_2 at gain 0.25", "distinct-2 at a reward of 0.25"),
        ("gain at its largest", "reward at its largest"),
        ("slope over α of entropy at gain 0.5", "slope over α of entropy at a reward of 0.5"),
        ("gain at beta 0.1", "reward at β = 0.1"),
    ],
)
def test_question_labels(question: str, words: str) -> None:
    assert tables.question_label(question) == words


def test_betas_table_has_a_column_for_each_distance() -> None:
    rows = [
        {"method": "jsd", "kl": 2, "value": 0.351, "low": 0.34, "high": 0.36},
        {"method": "jsd", "kl": 5, "value": None, "low": None, "high": None},
    ]
    head, _, line = tables.betas_table({"betas": rows}).splitlines()
    assert head == "| β at this distance | 2 nats | 5 nats |"
    assert line == "| JS | 0.35 (0.34 to 0.36) |  |"


def test_samples_stay_in_their_cells() -> None:
    samples = {
        "prompts": ["a\nfilm"],
        "reference": ["bad | worse"],
        "methods": {"alpha 0.3": {"beta": 0.1, "completions": ["two\n\nlines"]}},
    }
    head, _, *lines = tables.samples_table(samples).splitlines()
    assert head == "|  | “a film …” |"
    assert lines == ["| reference | bad / worse |", "| α = 0.3, β = 0.1 | two lines |"]
