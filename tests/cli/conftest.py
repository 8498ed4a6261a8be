"""A sweep of a stand-in program, and the ledger of what its runs did."""

from __future__ import annotations

from pathlib import Path

import pytest

from fdpo.cli import sweep as sweeps
from tests.cli.quick_sweep import QUICK, Sweep


@pytest.fixture
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LEDGER", str(tmp_path / "ledger"))
    (tmp_path / "ledger").touch()
    return tmp_path / "ledger"


@pytest.fixture
def sweep(ledger: Path) -> Sweep:
    """Runs a sweep of the stand-in program in the folder ``out``; returns the exit status."""

    def run(*options: object) -> int:
        try:
            sweeps.main(QUICK, [*map(str, options), "--output_dir", "out"])
        except SystemExit as stop:
            return int(stop.code or 0)
        return 0

    return run
