"""The names that `import fdpo` offers."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module

import fdpo
import fdpo.diffusion
import fdpo.llm

HEAVY = ("transformers", "trl", "datasets", "accelerate", "diffusers", "peft", "pandas")


def test_trainers_are_at_the_front_door() -> None:
    for name in ("FDPOTrainer", "FDPOConfig"):
        assert getattr(fdpo, name) is getattr(fdpo.llm, name)
    for name in ("DiffusionTrainer", "DiffusionConfig"):
        assert getattr(fdpo, name) is getattr(fdpo.diffusion, name)
        assert name in dir(fdpo)


def test_every_name_exists() -> None:
    for module in ("fdpo", "fdpo.llm", "fdpo.diffusion", "fdpo.losses", "fdpo.divergences"):
        loaded = import_module(module)
        assert all(hasattr(loaded, name) for name in loaded.__all__)


def test_importing_loads_nothing_heavy() -> None:
    code = f"import sys; from fdpo import *; print(*set({HEAVY}) & set(sys.modules))"
    output = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert output.strip() == ""
