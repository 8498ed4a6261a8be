"""Light start of the text programs: --help and mistakes load no trainer."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PROGRAMS = ("train_dpo.train", "train_dpo.evaluate", "train_dpo.sft", "dataset.train_scorer")
HEAVY = ("datasets", "diffusers", "pandas", "trl.trainer.dpo_trainer", "transformers.trainer")
SCRIPT = """
import importlib, sys

program = importlib.import_module("fdpo.programs." + sys.argv[1])
for argv in (["--help"], ["--nonsense"]):
    sys.argv[1:] = argv
    try:
        program.main()
    except SystemExit as stop:
        print("status", stop.code)
print("loaded", *sorted(set(sys.modules) & set(HEAVY)))
"""


@pytest.mark.parametrize("name", PROGRAMS)
def test_help_and_mistakes_load_no_trainer(name: str) -> None:
    script = SCRIPT.replace("HEAVY", repr(HEAVY))
    result = subprocess.run(
        [sys.executable, "-c", script, name],
        cwd=ROOT, capture_output=True, text=True, check=True, timeout=300,
    )  # fmt: skip
    lines = result.stdout.splitlines()
    assert [line for line in lines if line.startswith("status")] == ["status 0", "status 2"]
    assert lines[-1] == "loaded"
    assert "unknown option --nonsense" in result.stderr
