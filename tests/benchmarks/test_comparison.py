"""Side-by-side measurements: rounds, ratios and agreement."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks import comparison

ROWS = [
    {"round": number, "side": side, "seconds": seconds}
    for number, pair in enumerate([(2.0, 1.0), (9.0, 3.0), (4.0, 4.0)])
    for side, seconds in zip(("plain", "fast"), pair, strict=True)
]


def test_ratios_are_within_a_round() -> None:
    assert comparison.ratios(ROWS, "plain", "fast", "seconds") == [2, 3, 1]
    assert comparison.ratio(ROWS, "plain", "fast", "seconds") == "2.00 (1.00 to 3.00)"


def test_sides_take_turns_and_every_row_is_saved(tmp_path: Path) -> None:
    output = tmp_path / "rows.json"
    saved: list[int] = []

    def measure(side: str, number: int) -> comparison.Row:
        saved.append(len(json.loads(output.read_text())["rows"]) if output.exists() else 0)
        return {"seconds": 1.0}

    rows = comparison.alternate(["a", "b"], 2, measure, str(output), {"arguments": {"x": 1}})
    assert [(row["round"], row["side"]) for row in rows] == [(0, "a"), (0, "b"), (1, "a"), (1, "b")]
    assert saved == [0, 1, 2, 3]
    record = json.loads(output.read_text())
    assert record["rows"] == rows and record["arguments"] == {"x": 1} and record["commit"]


def test_agreement_is_that_of_loss_and_gradient() -> None:
    model = nn.Linear(2, 1)
    inputs = torch.randn(3, 2, generator=torch.Generator().manual_seed(0))
    loss = model(inputs).square().mean()
    gradient = comparison.flat_gradient(loss, model)
    assert gradient.shape == (3,) and gradient.dtype == torch.float64
    same = comparison.relative_differences((loss, gradient), (loss, gradient))
    assert same == {"loss": 0, "gradient": 0}
    comparison.require_agreement(same)
    other = comparison.relative_differences((loss, 1.01 * gradient), (loss, gradient))
    assert other["gradient"] == pytest.approx(0.01)
    with pytest.raises(SystemExit, match="do not agree"):
        comparison.require_agreement(other)


def test_markdown_table() -> None:
    table = comparison.markdown_table(("a", "b"), [(1, "x"), (2, "y")])
    assert table == "| a | b |\n| --- | --- |\n| 1 | x |\n| 2 | y |"
