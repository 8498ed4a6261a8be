"""The replication of slic-hf's table, on run folders whose order is known."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from experiments import slic_hf
from tests.experiments.conftest import call, write_run_folder


@pytest.mark.parametrize(("reversed_order", "expected"), [(False, 1.0), (True, -1.0)])
def test_order_of_slic_hf(tmp_path: Path, reversed_order: bool, expected: float) -> None:
    """Run folders whose rewards are in its order at beta 1, or in the opposite one."""
    sign = -1 if reversed_order else 1
    table = slic_hf.PUBLISHED[1.0]
    # Slopes are matched: its beta of 1 is .5 for JS. It has no Jeffreys, of the sweep's own beta.
    runs = [(method, 0.5 if method == "jsd" else 1.0, 0, logit) for method, logit in table.items()]
    for method, beta, seed, logit in [*runs, *(("jeffreys", 2.0, seed, 9.0) for seed in range(3))]:
        loss, _, alpha = method.partition(" ")
        options = {"loss": loss, "alpha": float(alpha) if alpha else None, "beta": beta,
                   "seed": seed, "match_curvature": True}  # fmt: skip
        rows = [
            {"opening": i, "sample": 0, "prompt": f"p{i}", "model": model, "completion": "a b",
             "log_ratio": 0.1, "kl": 0.1, "entropy": 1.0,
             "reward/imdb-sentiment": sign * logit if model == "policy" else 0.0}
            for model in ("reference", "policy") for i in range(12)
        ]  # fmt: skip
        pairs = [{"prompt": "q", "margin": 1.0}]
        folder = tmp_path / "runs" / f"{method}-{seed}"
        write_run_folder(folder, options, rows, pairs, tails=[0.0], deviation=1.0)
    output = tmp_path / "out.json"
    call(slic_hf.main, "--sweep", tmp_path, "--output", output, "--draws", 50)
    results = json.loads(output.read_text())
    [one] = results["correlations"]
    assert one["beta"] == 1 and one["value"] == pytest.approx(expected)
    assert one["by_chance"] == pytest.approx(2 / math.factorial(7))  # in its order, or reversed
    assert results["commits"] == ["abc"]
    assert {row["method"]: row["gain"] for row in results["rows"]} == pytest.approx(
        {method: sign * logit for method, logit in table.items()}, rel=1e-4
    )
