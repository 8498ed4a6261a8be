"""Answers to published claims, and slic-hf's table, on figures whose answers are known."""

from __future__ import annotations

import importlib
import json
import math
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
METHODS = ["sigmoid", "alpha 0.3", "alpha 0.5", "alpha 0.7", "fkl"]


@pytest.fixture(autouse=True)
def path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)


def alpha_rows(gains: list[float], noise: float) -> list[dict[str, Any]]:
    """The claims' rows where each method gains so much at 5 nats, with a bootstrap's noise."""
    program, runs = importlib.import_module("text_claims"), importlib.import_module("text_runs")
    generator = torch.Generator().manual_seed(0)
    means = torch.zeros(401, 5, 1, 2, dtype=torch.float64)
    means[..., 1] = torch.tensor(gains, dtype=torch.float64)[:, None]
    means[1:, ..., 1] += noise * torch.randn(400, 5, 1, generator=generator, dtype=torch.float64)
    distance = torch.tensor([0.0, 5.0], dtype=torch.float64).expand_as(means)
    found = runs.Measured(METHODS, [0.1], [0], {}, [])
    figures = {"gain": means, "kl": distance, "entropy": means, "distinct_2": means}
    return program.claims(found, figures)


@pytest.mark.parametrize(
    ("gains", "noise", "answer", "slope"),
    [
        ([1.0, 0.9, 0.8, 0.7, 0.6], 0.01, "borne out", -0.4),
        ([0.6, 0.7, 0.8, 1.1, 0.9], 0.01, "contradicted", 0.4),
        ([0.6, 0.7, 0.8, 0.88, 0.9], 0.05, "undecided", 0.3),
    ],
)
def test_alpha_lies_between(gains: list[float], noise: float, answer: str, slope: float) -> None:
    program = importlib.import_module("text_claims")
    rows = alpha_rows(gains, noise)
    [row] = [r for r in rows if r["question"] == "slope over α of gain at kl 5"]
    assert row["difference"] == pytest.approx(slope, abs=0.1)
    assert row["low"] < row["difference"] < row["high"] and row["p_holm"] >= row["p"]
    [found] = [a for a in program.answers(rows) if a["question"] == row["question"]]
    assert found["answer"] == answer


def test_a_claim_of_all_methods_needs_them_all() -> None:
    program = importlib.import_module("text_claims")

    def answer(gains: list[float]) -> dict[str, Any]:
        rows = alpha_rows(gains, 0.01)
        asked = [a for a in program.answers(rows) if a["question"] == "gain at beta 0.1"]
        return asked[0]

    assert answer([1.0, 0.9, 0.8, 0.7, 0.6])["answer"] == "borne out"
    some = answer([1.0, 0.9, 0.8, 0.6, 0.6])
    assert some["answer"] == "undecided" and some["undecided"] == ["alpha 0.7"]
    assert answer([1.0, 0.9, 0.8, 0.5, 0.6])["answer"] == "contradicted"


@pytest.mark.parametrize(("turned", "expected"), [(False, 1.0), (True, -1.0)])
def test_order_of_slic_hf(tmp_path: Path, turned: bool, expected: float) -> None:
    """Run folders whose rewards are in its order at beta 1, or in the opposite one."""
    table = importlib.import_module("slic_hf").PUBLISHED[1.0]
    # Slopes are matched: its beta of 1 is .5 for JS. It has no Jeffreys, of the sweep's own beta.
    cells = [(method, 0.5 if method == "jsd" else 1.0, 0, logit) for method, logit in table.items()]
    for method, beta, seed, logit in [*cells, *(("jeffreys", 2.0, seed, 9.0) for seed in range(3))]:
        loss, _, alpha = method.partition(" ")
        folder = tmp_path / "cells" / f"{method}-{seed}"
        folder.mkdir(parents=True)
        options = {"loss": loss, "alpha": float(alpha) if alpha else None, "beta": beta,
                   "seed": seed, "match_curvature": True}  # fmt: skip
        rows = [
            {"opening": i, "sample": 0, "prompt": f"p{i}", "model": model, "completion": "a b",
             "log_ratio": 0.1, "kl": 0.1, "entropy": 1.0,
             "reward/imdb-sentiment": (-logit if turned else logit) if model == "policy" else 0.0}
            for model in ("reference", "policy") for i in range(12)
        ]  # fmt: skip
        (folder / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (folder / "held_out_pairs.jsonl").write_text('{"prompt": "q", "margin": 1.0}\n')
        (folder / "log.jsonl").write_text('{"step": 1, "tail_fraction": 0.0}\n')
        (folder / "run.json").write_text(json.dumps({"options": options, "git_commit": "abc"}))
        (folder / "metrics.json").write_text(json.dumps({"base_imdb-sentiment_sd": 1.0}))
    output = tmp_path / "out.json"
    with pytest.MonkeyPatch.context() as patch:
        arguments = ["--sweep", tmp_path, "--output", output, "--draws", 50]
        patch.setattr(sys, "argv", ["slic_hf.py", *map(str, arguments)])
        runpy.run_path(str(BENCHMARKS / "slic_hf.py"), run_name="__main__")
    found = json.loads(output.read_text())
    [one] = found["correlations"]
    assert one["beta"] == 1 and one["value"] == pytest.approx(expected)
    assert one["by_chance"] == pytest.approx(2 / math.factorial(7))  # in its order, or turned round
    assert found["commits"] == ["abc"]
    assert {row["method"]: row["gain"] for row in found["rows"]} == pytest.approx(
        {method: -logit if turned else logit for method, logit in table.items()}, rel=1e-4
    )


def test_a_figure_between_two_strengths_lies_on_the_line_over_their_logarithm() -> None:
    gains = torch.tensor([[[[0.0, 3.0, 1.0, 0.5]]]], dtype=torch.float64)  # first the reference's
    at_beta = importlib.import_module("text_claims").at_beta
    assert at_beta(gains, [0.01, 0.1, 1], 0.1).item() == 1
    between = at_beta(gains, [0.01, 0.1, 1], 0.01 * 10**0.25).item()
    assert between == pytest.approx(2.5, rel=1e-9)
    assert at_beta(gains, [0.01, 0.1, 1], 2).isnan().all()
