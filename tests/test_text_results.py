"""What a text sweep says, on run folders whose curves are known."""

from __future__ import annotations

import importlib
import json
import math
import os
import runpy
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from fdpo import curves
from fdpo.cli import cells
from fdpo.runs.rows import read_rows

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
            text = f"a {opening} b {sample} c" if opening else "a"  # has no pair of words
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
    options = {"loss": method, "alpha": None, "beta": beta, "seed": seed, "learning_rate": 1e-4,
               "model_name_or_path": "/one/checkout/pretrained/imdb-gpt2"}  # fmt: skip
    folder.mkdir(parents=True)
    for name, content in (("samples.jsonl", rows), ("held_out_pairs.jsonl", pairs)):
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in content))
    (folder / "run.json").write_text(json.dumps({"options": options, "git_commit": "abc"}))
    (folder / "metrics.json").write_text(json.dumps({"base_imdb-sentiment_sd": 2.0}))
    log = [{"step": step, "tail_fraction": step / 10} for step in (1, 2, 3)]
    (folder / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in log))


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sweep")
    for method in GAINS:
        for beta in BETAS:
            for seed in (0, 1) if (method, beta) != ("fkl", 0.1) else (0,):
                write_run(root / f"cells/{method}-{beta}-{seed}", method, beta, seed)
    log = root / "logs/jsd-1.0-1.1.txt"
    log.parent.mkdir()
    log.write_text("2026-11-26T00:00:00+00:00 command\n")
    os.utime(log, (1795651265.5,) * 2)  # a minute after
    os.utime(root / "cells/jsd-1.0-1/metrics.json", (1795651265.5,) * 2)
    (root / "learning_rates.json").write_text('{"jsd": {"learning_rate": 1e-4, "cells": ["a"]}}')
    return root


def results_of(root: Path, *options: object) -> dict[str, Any]:
    with pytest.MonkeyPatch.context() as patch:
        arguments = ["--sweep", root, "--output", root / "text", "--draws", 400, *options]
        patch.syspath_prepend(PROGRAM.parent)
        patch.setattr(sys, "argv", ["text_results.py", *map(str, arguments)])
        runpy.run_path(str(PROGRAM), run_name="__main__")
    names = ("curves", "questions", "calibration", "samples")
    return {name: json.loads((root / f"text_{name}.json").read_text()) for name in names}


@pytest.fixture(scope="module")
def results(sweep: Path) -> dict[str, Any]:
    return results_of(sweep)


def test_kept_cells_are_put_back_and_say_the_same(
    sweep: Path, results: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is kept of a sweep is enough to go on from it, and to make its results anew."""
    monkeypatch.syspath_prepend(PROGRAM.parent)
    kept_cells = importlib.import_module("kept_cells")
    kept, other = tmp_path / "kept", tmp_path / "other"
    assert kept_cells.keep(sweep, kept) == 15
    before = {file.name: file.read_bytes() for file in kept.iterdir()}
    assert set(before) == {*(f"{m}.jsonl.gz" for m in GAINS), "learning_rates.json"}
    [row, *_] = read_rows(kept / "jsd.jsonl.gz")
    assert row["run"]["options"]["model_name_or_path"] == "pretrained/imdb-gpt2"
    other.mkdir()
    (other / "learning_rates.json").write_text('{"fkl": {"learning_rate": 1e-5, "cells": []}}')
    write_run(other / "cells/jsd-1.0-1", "jsd", 1.0, 1)
    (other / "cells/jsd-1.0-1/metrics.json").unlink()  # it was interrupted here
    assert kept_cells.restore(kept, other) == 15
    assert not (other / "cells/jsd-1.0-1/samples.jsonl").exists()
    rates = json.loads((other / "learning_rates.json").read_text())
    assert {name: one["learning_rate"] for name, one in rates.items()} == {"jsd": 1e-4, "fkl": 1e-5}
    (other / "learning_rates.json").unlink()
    record = json.loads((other / "cells/jsd-1.0-1/run.json").read_text())
    model = Path(record["options"]["model_name_or_path"])
    assert model == PROGRAM.parents[1] / "pretrained/imdb-gpt2" and model.exists()
    assert kept_cells.restore(kept, other) == 0 and kept_cells.keep(other, kept) == 15
    assert {file.name: file.read_bytes() for file in kept.iterdir()} == before
    took = [cells.seconds(cells.Cell(root, "cells", "jsd-1.0-1")) for root in (sweep, other)]
    assert took == [65.5, pytest.approx(66, abs=0.3)]
    again = results_of(other)
    for name, content in results.items():
        assert {**again[name], "arguments": None} == {**content, "arguments": None}


def test_the_strength_that_goes_as_far_is_told(results: dict[str, Any]) -> None:
    """Joined over the root of the distance: 12 nats at a beta of 0.1, 4 at 1."""
    rows = {(row["method"], row["kl"]): row for row in results["questions"]["strengths"]}
    share = (math.sqrt(12) - math.sqrt(10)) / (math.sqrt(12) - math.sqrt(4))
    for method in ("sigmoid", "jsd"):
        assert rows[method, 10]["value"] == pytest.approx(10 ** (share - 1), rel=1e-5)
        assert rows[method, 10]["low"] <= rows[method, 10]["value"] <= rows[method, 10]["high"]
        assert rows[method, 2]["value"] is None  # nearer than with any beta that ran
    assert rows["ipo", 5]["value"] is rows["fkl", 10]["value"] is None  # too near; a run is missing


def test_methods_may_have_strengths_of_their_own(
    sweep: Path, results: dict[str, Any], tmp_path: Path
) -> None:
    """A further point of one curve leaves the others what they were."""
    root = shutil.copytree(sweep, tmp_path / "sweep")
    for seed in (0, 1):
        write_run(root / f"cells/jsd-0.5-{seed}", "jsd", 0.5, seed)
    found = results_of(root)
    assert found["questions"]["missing"] == [["fkl", 0.1, 1]]
    for question in ("gain at kl 5", "entropy at gain 0.5"):
        own, before = answer(found, question, "ipo"), answer(results, question, "ipo")
        assert {**own, "p_holm": None} == {**before, "p_holm": None}  # the family's p-values
        row = answer(found, question, "jsd")
        assert row["value"] == pytest.approx(answer(results, question, "jsd")["value"], abs=0.02)
    rows = [row for row in found["curves"]["rows"] if row["beta"] == 0.5]
    assert [row["method"] for row in rows] == ["jsd"]


def test_only_the_strengths_that_are_asked_for(sweep: Path) -> None:
    found = results_of(sweep, "--betas", 1)
    assert {row["beta"] for row in found["curves"]["rows"]} == {0, 1}
    assert not found["curves"]["missing"]  # the runs of fkl at 0.1 are not


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
    assert results["questions"]["missing"] == [["fkl", 0.1, 1]]


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


def test_each_claim_has_an_answer(results: dict[str, Any]) -> None:
    answers = {(row["claim"], row["question"]): row for row in results["questions"]["answers"]}
    row = answers["JS trades best", "gain at kl 5"]
    assert row["answer"] == "borne out" and row["lower"] == ["sigmoid"]
    assert row["left_out"] == {"fkl": "run missing", "ipo": "not reached"}
    assert answers["forward KL gains least", "gain at its largest"]["answer"] == "not reached"
    less = answers["reverse KL has less diversity", "entropy at gain 0.5"]
    assert less["answer"] == "undecided" and "jsd" in less["undecided"]


def refused(sweep: Path) -> None:
    """Runs the program on a sweep that it ends at with status 2."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as ended:
        patch.syspath_prepend(PROGRAM.parent)
        patch.setattr(sys, "argv", ["text_results.py", "--sweep", str(sweep)])
        runpy.run_path(str(PROGRAM), run_name="__main__")
    assert ended.value.code == 2


def test_runs_on_other_openings_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed in (0, 1):
        write_run(tmp_path / f"cells/{seed}", "jsd", 0.1, seed)
    file = tmp_path / "cells/1/samples.jsonl"
    file.write_text(file.read_text().replace('"p7"', '"p6"'))
    refused(tmp_path)
    assert "cells/1: measured on other openings" in capsys.readouterr().err


def test_two_runs_of_one_cell_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("cells/a", "cells/b"):
        write_run(tmp_path / name, "jsd", 0.1, 0)
    refused(tmp_path)
    assert "are both of jsd, beta 0.1, seed 0" in capsys.readouterr().err


def test_curves_have_the_reference_and_errors_over_openings(results: dict[str, Any]) -> None:
    rows = {(row["method"], row["beta"]): row for row in results["curves"]["rows"]}
    assert rows["jsd", 0]["gain"] == 0 and rows["jsd", 0]["entropy"] == 3
    row = rows["jsd", 1]
    error = 0.2 / math.sqrt(OPENINGS * SAMPLES)
    assert row["gain"] == pytest.approx(1.2, abs=4 * error)
    assert error / 2 < row["gain_se"] < 2 * error
    assert row["accuracy"] == 0.75
    # right in 3 of 4 pairs, of which it says 73 %: less than the noise of 40 pairs
    assert row["overconfidence"] == pytest.approx(1 / (1 + math.exp(-1)) - 0.75, abs=1e-5)
    assert row["calibration_error"] == 0 == rows["jsd", 0]["calibration_error"]
    assert row["learning_rate"] == 1e-4 and row["tail_fraction"] == pytest.approx(0.25)
    ipo = rows["ipo", 1]  # whose margins are no log-odds
    assert ipo["accuracy"] == 0.75 and ipo["nll"] is ipo["overconfidence"] is None
    assert answer(results, "nll at kl 5", "ipo")["verdict"] == "no probability"


def test_calibration_counts_what_is_right_among_the_equally_sure(results: dict[str, Any]) -> None:
    row = next(row for row in results["calibration"]["rows"] if row["method"] == "jsd")
    assert row["says"] == pytest.approx(1 / (1 + math.exp(-1)), abs=1e-5)
    assert row["right"] == 0.75 and row["pairs"] == 80


def make_pairs(seed: int, scale: float) -> dict[str, Any]:
    """What a policy says of 300 pairs that is right as often as a calibrated one, times a scale."""
    generator = torch.Generator().manual_seed(seed)
    sure = 1.5 * torch.randn(300, generator=generator, dtype=torch.float64)
    right = torch.rand(300, generator=generator) < sure.sigmoid()
    margins = scale * torch.where(right, sure, -sure)
    return importlib.import_module("text_runs").of_pairs(range(300), margins.tolist())


@pytest.mark.parametrize(("scale", "truth"), [(1.0, 0.0), (1.5, 0.067), (3.0, 0.159)])
def test_calibration_error_is_that_of_many_pairs_and_its_interval_holds_it(
    monkeypatch: pytest.MonkeyPatch, scale: float, truth: float
) -> None:
    """The mean of its squares is not that of the noise, which alone is .05 on so few pairs."""
    monkeypatch.syspath_prepend(PROGRAM.parent)
    error = importlib.import_module("text_calibration").calibration_error
    found, held = [], 0
    for seed in range(60):
        moments, _ = make_pairs(seed, scale)["calibration_moments"]
        draws = error(curves.resampled(moments, 200), 300)
        found.append(draws[0].item())
        low, high = draws[1:].quantile(torch.tensor([0.025, 0.975], dtype=draws.dtype)).tolist()
        held += low <= truth <= high
    assert math.sqrt(sum(x * x for x in found) / 60) == pytest.approx(truth, abs=0.035)
    assert sum(found) / 60 == pytest.approx(truth, abs=0.025)
    assert held >= 52  # of 60, of which 57 are expected


def test_calibration_error_without_noise_is_the_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pairs of one prompt count as one: repeated tenfold they say no more of the noise."""
    monkeypatch.syspath_prepend(PROGRAM.parent)
    program = importlib.import_module("text_calibration")
    margins = [2.0 if i % 2000 < 1200 else -2.0 for i in range(20_000)]
    pairs = importlib.import_module("text_runs").of_pairs([i // 10 for i in range(20_000)], margins)
    moments, none = pairs["calibration_moments"]
    gap = 1 / (1 + math.exp(-2)) - 0.6
    variance = 0.6 * 0.4 / (2000 - 1)  # of 2,000 prompts, all whose pairs are alike
    found = program.calibration_error(moments.mean(0)[None], 2000).item()
    assert found == pytest.approx(math.sqrt(gap**2 - variance), rel=1e-9)
    assert program.calibration_error(none.mean(0)[None], 2000).item() == 0


def test_samples_stand_side_by_side(results: dict[str, Any]) -> None:
    samples = results["samples"]
    assert samples["openings"] == ["p0", "p1", "p2"]
    assert samples["methods"]["jsd"]["beta"] == 1  # 4 nats are nearer to 5 than 12
    assert samples["methods"]["jsd"]["completions"] == samples["reference"]


def test_an_empty_folder_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    refused(tmp_path)
    assert "no finished cell there" in capsys.readouterr().err
