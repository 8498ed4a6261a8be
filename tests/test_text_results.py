"""What a text sweep says, on run folders whose curves are known."""

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

from fdpo.calibration import calibration

PROGRAM = Path(__file__).parents[1] / "benchmarks/text_results.py"
OPENINGS, SAMPLES = 60, 2
BETAS = (0.1, 1.0)
GAINS = {"sigmoid": 0.4, "jsd": 0.6, "fkl": 0.4, "ipo": 0.4}
"""The reward of each method at a nat, in standard deviations; it grows with the root."""


def write_run(folder: Path, method: str, beta: float, seed: int) -> None:
    """Writes a run: 12 nats at beta 0.1 and 4 at 1 (ipo: a quarter of them)."""
    generator = torch.Generator().manual_seed(1000 * seed + int(10 * beta))
    kl = (1.2 / beta if beta < 1 else 4.0) * (0.25 if method == "ipo" else 1.0)
    gain = GAINS[method] * math.sqrt(kl)
    rows = []
    for opening in range(OPENINGS):
        for sample in range(SAMPLES):
            noise = 0.2 * torch.randn((), generator=generator).item()
            text = f"a {opening} b {sample} c"
            common = {"opening": opening, "sample": sample, "prompt": f"p{opening}", "entropy": 3.0}
            rows.append(
                common | {"model": "reference", "completion": text, "log_ratio": -0.5, "kl": 0.5,
                          "reward/imdb-sentiment": 1.0, "reward/vader": 0.0}
            )  # fmt: skip
            rows.append(
                common | {"model": "policy", "completion": text, "log_ratio": kl + noise, "kl": kl,
                          "entropy": 3.0 - gain, "reward/vader": 0.1,
                          "reward/imdb-sentiment": 1.0 + 2 * (gain + noise)}
            )  # fmt: skip
    pairs = [{"prompt": f"q{i}", "margin": 1.0 if i % 4 else -1.0} for i in range(40)]
    options = {"loss": method, "alpha": None, "beta": beta, "seed": seed}
    folder.mkdir(parents=True)
    for name, content in (("samples.jsonl", rows), ("held_out_pairs.jsonl", pairs)):
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in content))
    (folder / "run.json").write_text(json.dumps({"options": options, "git_commit": "abc"}))
    (folder / "metrics.json").write_text(json.dumps({"base_imdb-sentiment_sd": 2.0}))


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    root = tmp_path_factory.mktemp("sweep")
    for method in GAINS:
        for beta in BETAS:
            for seed in (0, 1) if (method, beta) != ("fkl", 0.1) else ():
                write_run(root / f"cells/{method}-{beta}-{seed}", method, beta, seed)
    with pytest.MonkeyPatch.context() as patch:
        arguments = ["--sweep", root, "--output", root / "text", "--draws", 400]
        patch.syspath_prepend(PROGRAM.parent)
        patch.setattr(sys, "argv", ["text_results.py", *map(str, arguments)])
        runpy.run_path(str(PROGRAM), run_name="__main__")
    names = ("curves", "questions", "calibration", "samples")
    return {name: json.loads((root / f"text_{name}.json").read_text()) for name in names}


def answer(results: dict[str, Any], question: str, method: str) -> dict[str, Any]:
    [row] = [
        row
        for row in results["questions"]["rows"]
        if row["question"] == question and row["method"] == method and not row["claim"]
    ]
    return row


@pytest.mark.parametrize("nats", [2, 5, 10])
def test_reward_at_equal_distance_is_that_of_the_curve(results: dict[str, Any], nats: int) -> None:
    row = answer(results, f"gain at kl {nats}", "jsd")
    assert row["baseline_value"] == pytest.approx(0.4 * math.sqrt(nats), abs=0.1)
    assert row["difference"] == pytest.approx(0.2 * math.sqrt(nats), abs=1e-6)  # equal noise
    assert row["verdict"] == "higher" and row["p_holm"] < 0.05


def test_entropy_at_equal_reward(results: dict[str, Any]) -> None:
    row = answer(results, "entropy at gain 0.5", "jsd")
    assert row["value"] == pytest.approx(2.5, abs=0.05)


def test_what_is_not_known_is_said(results: dict[str, Any]) -> None:
    row = answer(results, "gain at kl 2", "ipo")
    assert row["verdict"] == "undecided" and row["difference"] == pytest.approx(0, abs=0.05)
    row = answer(results, "gain at kl 5", "ipo")
    assert row["verdict"] == "not reached"
    assert row["difference"] is row["value"] is row["p_holm"] is None
    assert answer(results, "gain at kl 2", "fkl")["verdict"] == "run missing"
    assert results["questions"]["missing"] == [["fkl", 0.1, 0], ["fkl", 0.1, 1]]


def claimed(results: dict[str, Any], claim: str) -> dict[str, str]:
    rows = [row for row in results["questions"]["rows"] if row["claim"] == claim]
    return {f"{row['method']}: {row['question']}": row["verdict"] for row in rows}


def test_published_claims_are_answered(results: dict[str, Any]) -> None:
    assert claimed(results, "JS trades best") == {
        "sigmoid: gain at kl 5": "lower",
        "fkl: gain at kl 5": "run missing",
        "ipo: gain at kl 5": "not reached",
    }
    assert set(claimed(results, "forward KL gains least").values()) == {"run missing"}
    less = claimed(results, "reverse KL has less diversity")
    assert less["jsd: entropy at gain 0.5"] == "undecided"  # entropy is the reward's in this world


def test_two_runs_of_one_cell_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("cells/a", "cells/b"):
        write_run(tmp_path / name, "jsd", 0.1, 0)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as ended:
        patch.syspath_prepend(PROGRAM.parent)
        patch.setattr(sys, "argv", ["text_results.py", "--sweep", str(tmp_path)])
        runpy.run_path(str(PROGRAM), run_name="__main__")
    assert ended.value.code == 2
    assert "are both of jsd, beta 0.1, seed 0" in capsys.readouterr().err


def test_curves_have_the_reference_and_errors_over_openings(results: dict[str, Any]) -> None:
    rows = {(row["method"], row["beta"]): row for row in results["curves"]["rows"]}
    assert rows["jsd", 0]["gain"] == 0 and rows["jsd", 0]["entropy"] == 3
    row = rows["jsd", 1]
    error = 0.2 / math.sqrt(OPENINGS * SAMPLES)
    assert row["gain"] == pytest.approx(1.2, abs=4 * error)
    assert error / 2 < row["gain_se"] < 2 * error
    assert row["accuracy"] == 0.75
    # right in 3 of 4 pairs, of which it says 73 %: one bin and its mirror image
    assert row["ece"] == pytest.approx(0.75 - 1 / (1 + math.exp(-1)), abs=1e-5)
    assert rows["jsd", 0]["ece"] == 0


def test_calibration_counts_what_is_right_among_the_equally_sure(results: dict[str, Any]) -> None:
    row = results["calibration"]["rows"][0]
    assert row["says"] == pytest.approx(1 / (1 + math.exp(-1)), abs=1e-5)
    assert row["right"] == 0.75 and row["pairs"] == 80


def test_parts_of_the_calibration_error_sum_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(PROGRAM.parent)
    parts = importlib.import_module("text_runs").gaps
    margins = 2 * torch.randn(300, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = parts(margins).mean(dim=0).abs().sum().item()
    assert found == pytest.approx(calibration(margins).ece, abs=1e-6)


def test_samples_stand_side_by_side(results: dict[str, Any]) -> None:
    samples = results["samples"]
    assert samples["openings"] == ["p0", "p1", "p2"]
    assert samples["methods"]["jsd"]["beta"] == 1  # 4 nats are nearer to 5 than 12
    assert samples["methods"]["jsd"]["completions"] == samples["reference"]


def test_an_empty_folder_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as ended:
        patch.syspath_prepend(PROGRAM.parent)
        patch.setattr(sys, "argv", ["text_results.py", "--sweep", str(tmp_path)])
        runpy.run_path(str(PROGRAM), run_name="__main__")
    assert ended.value.code == 2
    assert "no finished cell there" in capsys.readouterr().err
