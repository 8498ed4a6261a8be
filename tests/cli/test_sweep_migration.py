"""Folders of version 0.1: the names of their runs stay, their folders and keys get new names."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.quick_sweep import RATES, Sweep, printed, table

GRID = "--loss jsd alpha --alpha .3 --beta 1 0.1 --eval_openings 20 --scorers a b --max_steps 5"
OLD = {"metric": "figure", "runs": "cells", "trials": "checks"}


def test_runs_and_trials_keep_their_names(sweep: Sweep, capsys: pytest.CaptureFixture[str]) -> None:
    assert sweep(*GRID.split(), "--logging_steps", 3, "--print") == 0
    assert [words[-1] for words in printed(capsys)] == [
        "out/runs/jsd-beta1-lr1-seed0-914f22c537",
        "out/runs/jsd-beta0.1-lr1-seed0-047a367c5a",
        "out/runs/alpha-0.3-beta1-lr1-seed0-4358ab1277",
        "out/runs/alpha-0.3-beta0.1-lr1-seed0-e0f61a25cb",
    ]
    assert sweep(*GRID.split(), "--learning_rates", 0.1, 0.5, "--check_betas", 0.2, "--print") == 0
    assert [words[-1] for words in printed(capsys)][::2] == [
        "out/trials/jsd-beta0.2-lr0.1-seed0-85c0cf42fd",
        "out/trials/alpha-0.3-beta0.2-lr0.1-seed0-358eafd23f",
    ]


def test_an_old_folder_is_migrated_and_nothing_runs_again(sweep: Sweep, ledger: Path) -> None:
    grid = ("--beta", 0.1, "--seed", 0, 1, "--eval_num_prompts", 20, *RATES)
    assert sweep(*grid) == 0
    root, rows, before = Path("out"), table(), ledger.read_text()
    choices = json.loads((root / "learning_rates.json").read_text())
    former = {m: {OLD.get(k, k): v for k, v in choice.items()} for m, choice in choices.items()}
    text = json.dumps(former).replace("out/trials/", "out/checks/")
    (root / "learning_rates.json").write_text(text)
    for record in root.glob("runs/*/run.json"):
        text = record.read_text().replace('"eval_num_prompts"', '"eval_openings"')
        record.write_text(text)
    for folder in ("runs", "trials"):
        (root / folder).rename(root / OLD[folder])
    (root / "locks").mkdir()
    (root / "table.parquet").unlink()
    assert sweep(*grid) == 0
    assert ledger.read_text() == before and table() == rows
    assert [row["eval_num_prompts"] for row in rows] == ["20", "20"]
    assert json.loads((root / "learning_rates.json").read_text()) == choices
    assert {path.name for path in root.iterdir() if path.is_dir()} == {"runs", "trials", "logs"}


def test_a_folder_with_runs_of_both_versions_keeps_all(sweep: Sweep, ledger: Path) -> None:
    assert sweep("--seed", 0) == 0
    Path("out/runs").rename("out/cells")
    Path("out/runs").mkdir()
    assert sweep("--seed", 0, 1) == 0 and len(table()) == 2
    assert ledger.read_text().count("end") == 2 and not Path("out/cells").exists()
