"""Learning rates in a sweep: trials, choices, and the runs that get them."""

from __future__ import annotations

import json
import math
import shlex
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from tests.cli.quick_sweep import (
    RATES,
    Sweep,
    cut_power,
    events,
    run_forked,
    table,
    wait_for,
)


def test_each_method_gets_its_best_rate_at_each_beta(
    sweep: Sweep, ledger: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grid = ("--loss", "jsd", "fkl", "--beta", 0.1, 0.4, "--seed", 5, 6)
    assert sweep(*grid, *RATES, "--print") == 0
    output = capsys.readouterr()
    assert "12 trials" in output.err and "8 of 8 runs" in output.err
    assert all("--seed=5" in line and "--max_steps=4" in line for line in output.out.splitlines())
    assert sweep(*grid, *RATES) == 0
    choices = json.loads(Path("out/learning_rates.json").read_text())
    assert len(choices) == 4
    best = {"0.1": 0.1, "0.4": 0.5}  # the stand-in's best rate is its beta
    checked = {"0.1": (0.02, 0.1, 0.5), "0.4": (0.1, 0.5)}  # beyond the smallest if it is the best
    for name, choice in choices.items():
        [beta] = [beta for beta in best if f"-beta{beta}-" in name]
        assert choice["learning_rate"] == best[beta] and not choice["at_edge"]
        losses = {str(rate): pytest.approx(abs(rate - float(beta))) for rate in checked[beta]}
        assert choice["losses"] == {**losses, "7": None}
    rows = table()
    assert len(rows) == 8
    assert all(float(row["learning_rate"]) == best[str(row["beta"])] for row in rows)
    for row in rows:
        [losses] = json.loads(row["learning_rate_trial"]).values()
        assert losses["7"] is None
    before = len(events(ledger))
    assert sweep("--loss", "jsd", "--beta", 0.1, 0.4, "--seed", 5, 6, 7, *RATES) == 0
    assert len(table()) == 10 and len(events(ledger)) == before + 2 * 5


def test_rates_at_betas_without_trials_follow_a_power_law(sweep: Sweep, ledger: Path) -> None:
    grid = ("--beta", 0.1, 0.2, 0.8, "--check_betas", 0.1, 0.4)
    assert sweep(*grid, *RATES) == 0
    # The best rates are 0.1 at 0.1 and 0.5 at 0.4, which is no run.
    slope = math.log(5) / math.log(4)
    rows = sorted(table(), key=lambda row: row["beta"])
    assert [row["beta"] for row in rows] == [0.1, 0.2, 0.8]
    for row in rows:
        expected = pytest.approx(0.1 * (row["beta"] / 0.1) ** slope, rel=5e-3)
        assert float(row["learning_rate"]) == expected
        behind = json.loads(row["learning_rate_trial"])
        assert len(behind) == (1 if row["beta"] == 0.1 else 2)  # its own, or both
    before = events(ledger)
    assert sweep(*grid, *RATES) == 0 and events(ledger) == before


def test_a_killed_sweep_keeps_its_choices_of_rates(
    ledger: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of the first method stand before the trials of the second have ended."""
    monkeypatch.setenv("PAUSE", "0.1")
    rates = ("--learning_rates", 0.05, 0.1, 0.5, "--check_steps", 4)  # none beyond is needed
    process = run_forked("--beta", 0.1, 0.11, *rates)
    wait_for(ledger, 3 * 6 + 3, process)
    process.kill()
    process.join()
    cut_power(ledger)
    [choice] = json.loads(Path("out/learning_rates.json").read_text()).values()
    assert choice["learning_rate"] == 0.1


def test_a_beta_with_trials_needs_no_other(
    sweep: Sweep, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--check_betas", 0.4, 13, *RATES)  # the stand-in fails at 13
    assert sweep("--beta", 0.4, "--seed", 5, 6, *options, "--print") == 0
    output = capsys.readouterr()
    assert "3 trials" in output.err and "2 of 2 runs" in output.err
    assert all("--beta=0.4" in line and "--seed=5" in line for line in output.out.splitlines())
    assert sweep("--beta", 0.2, 0.4, *options) == 1  # at 0.2 there is no rate without that at 13
    assert [(row["beta"], float(row["learning_rate"])) for row in table()] == [(0.4, 0.5)]


def test_a_method_without_a_rate_does_not_stop_the_rest(
    sweep: Sweep, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sweep("--beta", 0.4, 13, "--learning_rates", 8, 16, "--check_steps", 4) == 1
    error = capsys.readouterr().err
    assert "sigmoid-beta13-lr8-seed0" in error and "ValueError: thirteen is too much" in error
    assert len(table()) == 1  # the rates went down from 8 until one was too small
    [choice] = json.loads(Path("out/learning_rates.json").read_text()).values()
    assert choice["learning_rate"] == 0.5
    assert choice["losses"]["8"] is choice["losses"]["16"] is None


def test_a_method_that_diverges_at_every_rate_is_reported(
    sweep: Sweep, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sweep("--learning_rates", 1e6, 2e6, "--check_steps", 4) == 1
    assert "diverges at every learning rate (15625: inf, 31250: inf" in capsys.readouterr().err
    assert not Path("out/table.csv").exists()


def test_a_trial_that_fails_otherwise_is_repeated(sweep: Sweep, ledger: Path) -> None:
    for _ in range(2):
        assert sweep("--beta", 13, *RATES) == 1
    assert Counter(what for what, _, _ in events(ledger)) == {"begin": 6}


def test_printed_commands_reach_the_runs_past_a_rate_that_diverges(
    sweep: Sweep, ledger: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grid = ("--beta", 4, "--learning_rates", 2, 4, 8, "--check_steps", 4, "--seed", 0, 1)
    for commands in (3, 2, 0):
        sweep(*grid, "--print")
        lines = capsys.readouterr().out.splitlines()
        assert len(lines) == commands and all("--output_dir" in line for line in lines)
        for line in lines:
            subprocess.run(shlex.split(line), check=False, stderr=subprocess.DEVNULL)
    assert sweep(*grid) == 0 and [float(row["learning_rate"]) for row in table()] == [4, 4]
