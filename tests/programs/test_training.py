"""The programs that train a language model and a scorer on texts: what their metrics need."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import sentence

PROGRAMS = ["train_dpo.sft", "dataset.train_scorer"]
SMALL = ("--vocab_size", 300, "--layers", 1, "--width", 96, "--max_steps", 1, "--use_cpu")
Run = Callable[..., None]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs one of the programs in a temporary folder, on 40 texts."""
    monkeypatch.chdir(tmp_path)
    rows = [{"text": sentence(i, 20), "label": i % 2} for i in range(40)]
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def command(name: str, *options: object) -> None:
        program = importlib.import_module(f"fdpo.programs.{name}")
        given = ("--dataset", "texts.jsonl", *SMALL, "--output_dir", "out", *options)
        monkeypatch.setattr("sys.argv", [name, *map(str, given)])
        program.main()

    return command


WRONG: list[tuple[str, tuple[Any, ...], str]] = [
    *((name, ("--held_out", 0), "--held_out must be at least 1, got 0") for name in PROGRAMS),
    *((name, ("--export", "texts.jsonl"), "--export texts.jsonl: is a file") for name in PROGRAMS),
    ("train_dpo.sft", ("--eval_strategy", "steps"), "--eval_strategy: needs more than 500 texts"),
]


@pytest.mark.parametrize(("name", "options", "message"), WRONG)
def test_what_the_metrics_need_is_checked_before_the_training(
    run: Run,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    options: tuple[Any, ...],
    message: str,
) -> None:
    with pytest.raises(SystemExit) as stop:
        run(name, "--held_out", 8, *options)
    assert stop.value.code == 2 and message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_block_longer_than_the_context(
    run: Run, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        run("train_dpo.sft", "--held_out", 8, "--model", tiny_model, "--context", 65)
    message = "--context 65: the model takes at most 64 tokens"
    assert stop.value.code == 2 and message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "measured"),
    [
        ("train_dpo.sft", "fdpo.llm.models.load_model"),
        ("dataset.train_scorer", "fdpo.scorers.get_scorer"),
    ],
)
def test_metrics_that_fail_leave_the_model(
    run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    measured: str,
) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(measured, fail)
    run(name, "--held_out", 8)
    written = json.loads((tmp_path / "out/metrics.json").read_text())
    assert written == {"missing": {"metrics": "RuntimeError: out of memory"}}
    assert (tmp_path / "out/model.safetensors").exists()
    assert "the run continues without its metrics" in capsys.readouterr().err
