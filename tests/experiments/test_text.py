"""Results of a text sweep, on run folders whose curves are known."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest

from experiments import text
from tests.experiments.conftest import PROMPTS, SAMPLES, call, comparison, text_results, write_run


def test_beta_at_a_distance(results: dict[str, Any]) -> None:
    """Joined over the root of the distance: 12 nats at a beta of 0.1, 4 at 1."""
    rows = {(row["method"], row["kl"]): row for row in results["questions"]["betas"]}
    share = (math.sqrt(12) - math.sqrt(10)) / (math.sqrt(12) - math.sqrt(4))
    for method in ("sigmoid", "jsd"):
        assert rows[method, 10]["value"] == pytest.approx(10 ** (share - 1), rel=1e-5)
        assert rows[method, 10]["low"] <= rows[method, 10]["value"] <= rows[method, 10]["high"]
        assert rows[method, 2]["value"] is None  # nearer than with any beta that ran
    assert rows["ipo", 5]["value"] is rows["fkl", 10]["value"] is None  # too near; a run is missing


def test_methods_may_have_different_betas(
    sweep: Path, results: dict[str, Any], tmp_path: Path
) -> None:
    """A further point of one curve does not change the others."""
    root = shutil.copytree(sweep, tmp_path / "sweep")
    for seed in (0, 1):
        write_run(root / f"runs/jsd-0.5-{seed}", "jsd", 0.5, seed)
    extended = text_results(root)
    assert extended["questions"]["missing"] == [["fkl", 0.1, 1]]
    for question in ("gain at kl 5", "entropy at gain 0.5"):
        after, before = (comparison(r, question, "ipo") for r in (extended, results))
        assert {**after, "p_holm": None} == {**before, "p_holm": None}  # the family's p-values
        after, before = (comparison(r, question, "jsd") for r in (extended, results))
        assert after["value"] == pytest.approx(before["value"], abs=0.02)
    rows = [row for row in extended["curves"]["rows"] if row["beta"] == 0.5]
    assert [row["method"] for row in rows] == ["jsd"]


def test_betas_select_runs(sweep: Path) -> None:
    selected = text_results(sweep, "--betas", 1)
    assert {row["beta"] for row in selected["curves"]["rows"]} == {0, 1}
    assert not selected["curves"]["missing"]  # the runs of fkl at 0.1 are not


@pytest.mark.parametrize("nats", [2, 5, 10])
def test_reward_at_equal_distance_is_that_of_the_curve(results: dict[str, Any], nats: int) -> None:
    row = comparison(results, f"gain at kl {nats}", "jsd")
    assert row["baseline_value"] == pytest.approx(0.4 * math.sqrt(nats), abs=0.1)
    assert row["difference"] == pytest.approx(0.2 * math.sqrt(nats), abs=1e-6)  # equal noise
    assert row["verdict"] == "higher" and row["p_holm"] < 0.05


def test_entropy_at_equal_reward(results: dict[str, Any]) -> None:
    row = comparison(results, "entropy at gain 0.5", "jsd")
    assert row["value"] == pytest.approx(2.5, abs=0.05)


def test_verdicts_without_a_value_name_the_reason(results: dict[str, Any]) -> None:
    row = comparison(results, "gain at kl 2", "ipo")
    assert row["verdict"] == "undecided" and row["difference"] == pytest.approx(0, abs=0.05)
    row = comparison(results, "gain at kl 5", "ipo")
    assert row["verdict"] == "not reached"
    assert row["difference"] is row["value"] is row["p_holm"] is None
    assert comparison(results, "gain at kl 2", "fkl")["verdict"] == "run missing"
    assert results["questions"]["missing"] == [["fkl", 0.1, 1]]


def test_curves_have_the_reference_and_errors_over_prompts(results: dict[str, Any]) -> None:
    rows = {(row["method"], row["beta"]): row for row in results["curves"]["rows"]}
    assert rows["jsd", 0]["gain"] == 0 and rows["jsd", 0]["entropy"] == 3
    row = rows["jsd", 1]
    error = 0.2 / math.sqrt(PROMPTS * SAMPLES)
    assert row["gain"] == pytest.approx(1.2, abs=4 * error)
    assert error / 2 < row["gain_se"] < 2 * error
    assert row["accuracy"] == 0.75
    # right in 3 of 4 pairs, with a probability of 73 %: less than the noise of 40 pairs
    assert row["overconfidence"] == pytest.approx(1 / (1 + math.exp(-1)) - 0.75, abs=1e-5)
    assert row["calibration_error"] == 0 == rows["jsd", 0]["calibration_error"]
    assert row["learning_rate"] == 1e-4 and row["tail_fraction"] == pytest.approx(0.25)
    ipo = rows["ipo", 1]  # its margins are not log-odds
    assert ipo["accuracy"] == 0.75 and ipo["nll"] is ipo["overconfidence"] is None
    assert comparison(results, "nll at kl 5", "ipo")["verdict"] == "no probability"


def test_samples_are_of_the_same_prompts(results: dict[str, Any]) -> None:
    samples = results["samples"]
    assert samples["prompts"] == ["p0", "p1", "p2"]
    assert samples["methods"]["jsd"]["beta"] == 1  # 4 nats are nearer to 5 than 12
    assert samples["methods"]["jsd"]["completions"] == samples["reference"]


def test_a_sweep_without_samples_has_curves_and_calibration(tmp_path: Path) -> None:
    for seed in (0, 1):
        folder = tmp_path / f"runs/jsd-{seed}"
        write_run(folder, "jsd", 0.1, seed)
        (folder / "samples.jsonl").unlink()
    call(text.main, "--sweep", tmp_path, "--output", tmp_path / "text", "--draws", 50)
    assert {file.name for file in tmp_path.glob("*.json")} == {
        "text_curves.json",
        "text_calibration.json",
    }
    rows = json.loads((tmp_path / "text_curves.json").read_text())["rows"]
    assert [row["accuracy"] for row in rows if row["beta"]] == [0.75]
    assert not any("kl" in row for row in rows)


def refused(sweep: Path) -> None:
    """Runs the program on a sweep that it refuses with status 2."""
    with pytest.raises(SystemExit) as ended:
        call(text.main, "--sweep", sweep)
    assert ended.value.code == 2


def test_runs_on_other_prompts_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed in (0, 1):
        write_run(tmp_path / f"runs/{seed}", "jsd", 0.1, seed)
    file = tmp_path / "runs/1/samples.jsonl"
    file.write_text(file.read_text().replace('"p7"', '"p6"'))
    refused(tmp_path)
    assert "runs/1: measured on other prompts" in capsys.readouterr().err


def test_two_runs_with_the_same_options_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("runs/a", "runs/b"):
        write_run(tmp_path / name, "jsd", 0.1, 0)
    refused(tmp_path)
    assert "are both of jsd, beta 0.1, seed 0" in capsys.readouterr().err


def test_an_empty_folder_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    refused(tmp_path)
    assert "no finished run there" in capsys.readouterr().err
