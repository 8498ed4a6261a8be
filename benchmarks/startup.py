"""Start-up time of the library and of every program, as a multiple of ``import torch``.

    python -m benchmarks.startup

Measures the processor time of ``import fdpo``, and of each program's ``--help``, of a usage error
and, for a sweep, of ``--print``. Every round runs each command and ``import torch`` once, each in a
fresh process. The limits are 1.3 for ``import fdpo``, 2.8 for the programs that need TRL's
configuration classes and 1.4 for all others. If a median exceeds its limit, the exit status is 1.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from benchmarks.comparison import (
    Row,
    alternate,
    markdown_table,
    median_and_range,
    ratios,
    side_values,
)
from fdpo.cli import arguments

PROGRAM = "benchmarks.startup"
ROOT = Path(__file__).resolve().parents[1]
TORCH, FDPO = "import torch", "import fdpo"
WITH_TRL = ("train_dpo/train.py", "train_dpo/sweep.py")
"""The programs whose options include those of TRL's configuration classes."""
LIBRARY_LIMIT, TRL_LIMIT, LIMIT = 1.3, 2.8, 1.4
SECONDS = "processor_seconds"


@dataclass
class Arguments:
    """Measurement."""

    rounds: int = field(default=5, metadata={"help": "rounds"})
    output: str = field(default="results/startup.json", metadata={"help": "JSON file to write"})


def programs() -> list[str]:
    """Returns the paths of all programs, relative to the repository."""
    folders = ("train_dpo", "dataset", "diffusion")
    files = (file for folder in folders for file in sorted((ROOT / folder).glob("*.py")))
    return [str(file.relative_to(ROOT)) for file in files]


def commands() -> dict[str, list[str]]:
    """Returns the arguments of Python by the name of a command."""
    named = {statement: ["-c", statement] for statement in (TORCH, FDPO)}
    for program in programs():
        path = str(ROOT / program)
        named[f"{program} --help"] = [path, "--help"]
        named[f"{program} --not_an_option"] = [path, "--not_an_option"]
        if program.endswith("sweep.py"):
            named[f"{program} --print"] = [path, "--print", "--output_dir", "sweep"]
    return named


def limit(name: str) -> float:
    """Returns the largest ratio that a command may have."""
    if name == FDPO:
        return LIBRARY_LIMIT
    return TRL_LIMIT if name.startswith(WITH_TRL) else LIMIT


def processor_seconds(command: list[str], folder: str) -> float:
    """Runs Python and returns the processor time of the process and its children, seconds."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    result = subprocess.run(
        [sys.executable, *command],
        env=environment,
        cwd=folder,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    expected = 2 if "--not_an_option" in command else 0
    if result.returncode != expected:
        raise SystemExit(f"{' '.join(command)}: exit status {result.returncode}\n{result.stderr}")
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def measure_commands(named: Mapping[str, list[str]], args: Arguments) -> list[Row]:
    """Measures every command in every round."""
    with tempfile.TemporaryDirectory() as folder:

        def measure(name: str, number: int) -> Row:
            return {SECONDS: processor_seconds(named[name], folder)}

        record = {
            "arguments": arguments.resolved(args),
            "limits": {name: limit(name) for name in named if name != TORCH},
        }
        return alternate(list(named), args.rounds, measure, args.output, record)


def summary(rows: list[Row]) -> str:
    """Returns the results as a table."""
    names = list(dict.fromkeys(row["side"] for row in rows))
    lines = [
        (
            name,
            f"{median(side_values(rows, name, SECONDS)):.2f}",
            median_and_range(ratios(rows, name, TORCH, SECONDS)),
            "" if name == TORCH else limit(name),
        )
        for name in names
    ]
    return markdown_table(("command", "processor time, s", "times import torch", "limit"), lines)


def over_limit(rows: list[Row]) -> list[str]:
    """Returns the commands whose median ratio exceeds its limit."""
    names = dict.fromkeys(row["side"] for row in rows if row["side"] != TORCH)
    return [name for name in names if median(ratios(rows, name, TORCH, SECONDS)) > limit(name)]


def main() -> None:
    (args,) = arguments.parse((Arguments,), program=PROGRAM)
    rows = measure_commands(commands(), args)
    print(summary(rows))
    if slow := over_limit(rows):
        sys.exit(f"over the limit: {'; '.join(slow)}")


if __name__ == "__main__":
    main()
