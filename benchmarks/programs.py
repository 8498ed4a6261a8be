"""Runs the repository's programs for the tables of this folder, and averages over seeds."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from fdpo import runs

ROOT = Path(__file__).resolve().parents[1]


def run(*command: object) -> None:
    """Runs a program of the repository on one thread, and shows what it printed if it fails."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [sys.executable, *map(str, command)], env=environment, capture_output=True, text=True
    )
    if result.returncode:
        print(result.stderr[-2000:], file=sys.stderr)
        raise SystemExit(f"failed: {' '.join(map(str, command))}")


def trained(program: str, folder: Path, *options: object) -> dict[str, Any]:
    """Trains into a folder, unless that is done, or goes on; returns its final figures."""
    if not (folder / runs.METRICS).exists():
        going_on = ["--resume_from_checkpoint", "last"] if (folder / runs.RECORD).exists() else []
        run(ROOT / program, *options, "--output_dir", folder, *going_on)
    return runs.read_json(folder / runs.METRICS)


def log(folder: Path) -> list[dict[str, Any]]:
    """Returns the rows of a run's log."""
    return [json.loads(line) for line in (folder / "log.jsonl").open()]


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def cell(values: list[float]) -> str:
    """A mean over seeds with its standard error."""
    if len(values) < 2:
        return f"{values[0]:.3f}"
    spread = math.sqrt(sum((v - mean(values)) ** 2 for v in values) / (len(values) - 1))
    return f"{mean(values):.3f} ± {spread / math.sqrt(len(values)):.3f}"
