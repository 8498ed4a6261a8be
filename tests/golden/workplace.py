"""Programs of the repository, run in a temporary folder, and readers of their files."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = {
    "train": "train_dpo/train.py",
    "evaluate": "train_dpo/evaluate.py",
    "generate": "train_dpo/generate.py",
    "sft": "train_dpo/sft.py",
    "sweep": "train_dpo/sweep.py",
    "dataset": "dataset/main.py",
    "train_scorer": "dataset/train_scorer.py",
    "image_train": "diffusion/train.py",
    "image_evaluate": "diffusion/evaluate.py",
    "image_sample": "diffusion/sample.py",
    "image_sweep": "diffusion/sweep.py",
    "pretrain": "diffusion/pretrain.py",
    "train_sd": "diffusion/train_sd.py",
    "compare": "diffusion/compare.py",
    "archive": "-m experiments.archive",
    "text_results": "-m experiments.text",
}
"""The paths of the programs, or their modules: the only place to change when one moves."""
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "WANDB_MODE": "offline",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "CUDA_VISIBLE_DEVICES": "",
    "MPLBACKEND": "Agg",
    "PYTHONPATH": str(ROOT),
}
TIMING = re.compile(r".*(runtime|_per_second|seconds)$")
CHECKOUT_DEPENDENT = ("git_commit", "versions", "commands", "logging_dir", "commit", "command")


class Workplace:
    """A temporary folder in which programs run.

    Arguments:
        folder: The folder.
        data: The folder of real data, if there is one.
    """

    def __init__(self, folder: Path, data: Path | None = None) -> None:
        self.folder, self.data = folder, data
        self.results: dict[str, Any] = {}
        self.calls = 0

    def once(self, name: str, make: Callable[[Workplace], Any]) -> Any:
        """Returns the result of a function, which it calls the first time only."""
        if name not in self.results:
            self.results[name] = make(self)
        return self.results[name]

    def run(self, program: str, *options: object) -> str:
        """Runs a program and returns its output.

        Raises:
            RuntimeError: If it fails, with the end of its standard error.
        """
        path = PROGRAMS[program]
        start = path.split() if path.startswith("-m ") else [str(ROOT / path)]
        command = [sys.executable, *start, *map(str, options)]
        self.calls += 1
        # Each call has another cache: numbers of the reference depend in their last digits
        # on the batch in which they were computed first.
        caches = {"FDPO_CACHE": f"cache/{self.calls}", "HF_DATASETS_CACHE": "datasets"}
        environment = {**os.environ, **ENVIRONMENT}
        environment |= {name: str(self.folder / path) for name, path in caches.items()}
        done = subprocess.run(
            command, cwd=self.folder, env=environment, capture_output=True, text=True
        )
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-3000:]}")
        return done.stdout

    def json(self, path: str) -> Any:
        """Reads a JSON file without times and values that depend on the machine or checkout."""
        return stable(json.loads((self.folder / path).read_text(encoding="utf-8")), self.folder)

    def rows(self, path: str) -> list[Any]:
        """Reads a JSONL file as :meth:`json` does."""
        lines = (self.folder / path).read_text(encoding="utf-8").split("\n")
        return [stable(json.loads(line), self.folder) for line in lines if line]

    def front_matter(self, path: str) -> dict[str, Any]:
        """Reads the YAML at the top of a card."""
        text = (self.folder / path).read_text(encoding="utf-8")
        return stable(yaml.safe_load(text.split("---\n")[1]), self.folder)

    def names(self, path: str) -> list[str]:
        """Lists the files under a folder."""
        files = (one for one in (self.folder / path).rglob("*") if one.is_file())
        return sorted(str(one.relative_to(self.folder / path)) for one in files)

    def weights(self, path: str) -> dict[str, float]:
        """Returns a few numbers that change with any weight in a file."""
        tensors = [value.double() for value in load_file(self.folder / path).values()]
        return {
            "tensors": len(tensors),
            "numbers": sum(value.numel() for value in tensors),
            "sum": sum(value.sum().item() for value in tensors),
            "norm": math.hypot(*(value.norm().item() for value in tensors)),
        }

    def shapes(self, path: str) -> dict[str, list[int]]:
        """Returns the shape of each tensor in a file by its name."""
        tensors = load_file(self.folder / path)
        return {name: list(value.shape) for name, value in sorted(tensors.items())}


def stable(value: Any, folder: Path) -> Any:
    """Drops times and commits from a value, and shortens paths to names."""
    if isinstance(value, dict):
        return {
            key: stable(one, folder)
            for key, one in value.items()
            if key not in CHECKOUT_DEPENDENT and not TIMING.fullmatch(key)
        }
    if isinstance(value, list):
        return [stable(one, folder) for one in value]
    if isinstance(value, str) and value.startswith((f"{ROOT}/", f"{folder}/")):
        return f".../{Path(value).name}"
    return value


def write_jsonl(path: Path, rows: list[Any]) -> None:
    """Writes a row on each line."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


class OneThread:
    """A context in which torch computes on one thread."""

    def __enter__(self) -> None:
        self.threads = torch.get_num_threads()
        torch.set_num_threads(1)

    def __exit__(self, *_: object) -> None:
        torch.set_num_threads(self.threads)
