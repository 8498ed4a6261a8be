"""The fixtures of the tests of image programs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.diffusion.conftest import *  # noqa: F403
from tests.diffusion.tiny import reset_accelerate


@pytest.fixture
def run_sd(
    program: Callable[[str], ModuleType],
    pair_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., None]:
    """Runs a program in a folder with ``pairs``; options as a mapping and keywords."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "datasets")
    monkeypatch.setenv("ACCELERATE_USE_CPU", "false")  # restored after the test

    def command(path: str, options: Mapping[str, Any], **more: Any) -> None:
        reset_accelerate()
        argv: list[str] = []
        for name, value in {**options, **more}.items():
            if value is not None:
                argv += [f"--{name}", *map(str, value if isinstance(value, list) else [value])]
        monkeypatch.setattr(sys, "argv", [Path(path).name, *argv])
        program(path).main()

    return command
