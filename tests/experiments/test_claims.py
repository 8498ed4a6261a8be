"""Answers to published claims, on values whose answers are known."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from experiments.claims import answers, compare_claims
from experiments.metrics import SweepMetrics

METHODS = ["sigmoid", "alpha 0.3", "alpha 0.5", "alpha 0.7", "fkl"]


def alpha_rows(gains: list[float], noise: float) -> list[dict[str, Any]]:
    """Returns the claims' rows where each method has this gain at 5 nats, with noisy draws."""
    generator = torch.Generator().manual_seed(0)
    means = torch.zeros(401, 5, 1, 2, dtype=torch.float64)
    means[..., 1] = torch.tensor(gains, dtype=torch.float64)[:, None]
    means[1:, ..., 1] += noise * torch.randn(400, 5, 1, generator=generator, dtype=torch.float64)
    distance = torch.tensor([0.0, 5.0], dtype=torch.float64).expand_as(means)
    sweep = SweepMetrics(METHODS, [0.1], [0], {}, [])
    metrics = {"gain": means, "kl": distance, "entropy": means, "distinct_2": means}
    return compare_claims(sweep, metrics)


@pytest.mark.parametrize(
    ("gains", "noise", "answer", "slope"),
    [
        ([1.0, 0.9, 0.8, 0.7, 0.6], 0.01, "borne out", -0.4),
        ([0.6, 0.7, 0.8, 1.1, 0.9], 0.01, "contradicted", 0.4),
        ([0.6, 0.7, 0.8, 0.88, 0.9], 0.05, "undecided", 0.3),
    ],
)
def test_alpha_between(gains: list[float], noise: float, answer: str, slope: float) -> None:
    rows = alpha_rows(gains, noise)
    [row] = [r for r in rows if r["question"] == "slope over α of gain at kl 5"]
    assert row["difference"] == pytest.approx(slope, abs=0.1)
    assert row["low"] < row["difference"] < row["high"] and row["p_holm"] >= row["p"]
    [actual] = [a for a in answers(rows) if a["question"] == row["question"]]
    assert actual["answer"] == answer


def test_a_claim_about_all_methods_needs_them_all() -> None:
    def answer(gains: list[float]) -> dict[str, Any]:
        rows = alpha_rows(gains, 0.01)
        return next(a for a in answers(rows) if a["question"] == "gain at beta 0.1")

    assert answer([1.0, 0.9, 0.8, 0.7, 0.6])["answer"] == "borne out"
    some = answer([1.0, 0.9, 0.8, 0.6, 0.6])
    assert some["answer"] == "undecided" and some["undecided"] == ["alpha 0.7"]
    assert answer([1.0, 0.9, 0.8, 0.5, 0.6])["answer"] == "contradicted"


def claim_verdicts(results: dict[str, Any], claim: str) -> dict[str, str]:
    rows = [row for row in results["questions"]["rows"] if row["claim"] == claim]
    return {f"{row['method']}: {row['question']}": row["verdict"] for row in rows}


def test_published_claims_are_answered(results: dict[str, Any]) -> None:
    assert claim_verdicts(results, "JS trades best") == {
        "sigmoid: gain at kl 5": "lower",
        "fkl: gain at kl 5": "run missing",
        "ipo: gain at kl 5": "not reached",
    }
    assert set(claim_verdicts(results, "forward KL gains least").values()) == {"run missing"}
    less = claim_verdicts(results, "reverse KL has less diversity")
    assert less["jsd: entropy at gain 0.5"] == "undecided"  # entropy is the reward's in this world


def test_each_claim_has_an_answer(results: dict[str, Any]) -> None:
    rows = {(row["claim"], row["question"]): row for row in results["questions"]["answers"]}
    row = rows["JS trades best", "gain at kl 5"]
    assert row["answer"] == "borne out" and row["lower"] == ["sigmoid"]
    assert row["left_out"] == {"fkl": "run missing", "ipo": "not reached"}
    assert rows["forward KL gains least", "gain at its largest"]["answer"] == "not reached"
    less = rows["reverse KL has less diversity", "entropy at gain 0.5"]
    assert less["answer"] == "undecided" and "jsd" in less["undecided"]
