"""The sweep of text training, with real runs of a tiny model."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
from safetensors.torch import load_file

from fdpo.runs.rows import read_rows

ROOT = Path(__file__).parents[3]


def loaded(name: str) -> ModuleType:
    module = importlib.import_module(f"fdpo.programs.train_dpo.{name}")
    return module


@pytest.mark.slow
def test_a_sweep_of_real_runs(
    tiny_model: Path,
    pair_rows: list[dict[str, str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FDPO_CACHE", str(tmp_path / "cache"))
    for name in ("train", "sweep"):
        monkeypatch.setitem(sys.modules, name, loaded(name))
    Path("pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pair_rows))
    options = (
        "--model", tiny_model, "--dataset", "pairs.jsonl", "--scorers", "vader", "--use_cpu",
        "--per_device_train_batch_size", 4, "--eval_openings", 3, "--eval_samples", 2,
        "--eval_tokens", 8, "--test_share", 0.25, "--loss", "jsd", "alpha", "--alpha", 0.5,
        "--match_curvature", "--learning_rates", 1e-3, "--check_steps", 3, "--jobs", 2,
        "--output_dir", "out",
    )  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["sweep.py", *map(str, options)])
    sys.modules["sweep"].main()
    choices = json.loads(Path("out/learning_rates.json").read_text())
    assert all(0 < one["losses"]["0.001"] < 1 for one in choices.values())
    rows = read_rows("out/table.parquet")
    assert [(row["loss"], row["alpha"]) for row in rows] == [("alpha", 0.5), ("jsd", None)]
    assert {"vader", "vader_se", "reverse_kl", "commit", "seconds"} <= rows[0].keys()
    # The reference was run once for each completion: no number of its is kept twice.
    files = [load_file(path) for path in Path("cache/reference").glob("*/*.safetensors")]
    keys = [tuple(key) for file in files for key in file["keys"].tolist()]
    assert len(keys) == len(set(keys)) > 0
