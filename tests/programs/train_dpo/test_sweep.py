"""Sweep of text training: real runs of a tiny model, and the presets."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from fdpo.programs.train_dpo import sweep
from fdpo.runs.rows import read_rows


@pytest.mark.slow
def test_a_sweep_of_real_runs(
    tiny_model: Path,
    pair_rows: list[dict[str, str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FDPO_CACHE", str(tmp_path / "cache"))
    Path("pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pair_rows))
    options = (
        "--model", tiny_model, "--dataset", "pairs.jsonl", "--scorers", "vader", "--use_cpu",
        "--per_device_train_batch_size", 4, "--eval_num_prompts", 3, "--eval_samples", 2,
        "--eval_tokens", 8, "--test_share", 0.25, "--loss", "jsd", "alpha", "--alpha", 0.5,
        "--match_curvature", "--learning_rates", 1e-3, "--check_steps", 3, "--jobs", 2,
        "--output_dir", "out",
    )  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["sweep.py", *map(str, options)])
    sweep.main()
    choices = json.loads(Path("out/learning_rates.json").read_text())
    assert all(0 < choice["losses"]["0.001"] < 1 for choice in choices.values())
    rows = read_rows("out/table.parquet")
    assert [(row["loss"], row["alpha"]) for row in rows] == [("alpha", 0.5), ("jsd", None)]
    assert {"vader", "vader_se", "reverse_kl", "commit", "seconds"} <= rows[0].keys()
    # The reference was run once for each completion: none is cached twice.
    files = [load_file(path) for path in Path("cache/reference").glob("*/*.safetensors")]
    keys = [tuple(key) for file in files for key in file["keys"].tolist()]
    assert len(keys) == len(set(keys)) > 0


RUNS = {
    "sweep_imdb": (40, "sigmoid-beta0.06-lr0.0001-seed0-39cd85df76"),
    "losses_on_imdb": (7, "sigmoid-beta0.1-lr0.0003-seed42-dcdb7f4537"),
}


@pytest.mark.parametrize("preset", RUNS)
def test_presets_name_the_same_runs_as_ever(
    preset: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Results that are saved in the repository are known by these names."""
    monkeypatch.chdir(tmp_path)
    options = ["--config", preset, "--dataset", "runs/dataset-sweep", "--print"]
    monkeypatch.setattr(sys, "argv", ["sweep.py", *options])
    sweep.main()
    lines = [line for line in capsys.readouterr().out.splitlines() if "train.py" in line]
    names = [Path(shlex.split(line)[-1]).name for line in lines]
    number, first = RUNS[preset]
    assert len(names) == number and names[0] == first
