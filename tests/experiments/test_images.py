"""Results of image sweeps, on runs of the embedded model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from experiments import images
from tests.experiments.conftest import call

MODEL = Path(__file__).parents[2] / "pretrained/mnist-ddpm"


def write_image_run(folder: Path, beta: float, share: float) -> None:
    """Writes a run that left the reference as it is."""
    shutil.copytree(MODEL, folder)
    options = {"model": str(MODEL), "loss": "jsd", "alpha": None, "beta": beta, "kappa": 20.0,
               "seed": 0, "learning_rate": 1e-3}  # fmt: skip
    (folder / "run.json").write_text(json.dumps({"options": options, "git_commit": "abc"}))
    (folder / "metrics.json").write_text(json.dumps({"share": share, "unused": 1}))


def test_rows_and_samples(tmp_path: Path) -> None:
    for beta, share in ((1.0, 0.5), (0.2, 0.9)):
        write_image_run(tmp_path / f"sweep/runs/jsd-{beta}", beta, share)
    output = tmp_path / "results/mnist"
    call(images.main, "--sweeps", tmp_path / "sweep", "--output", output, "--columns", 2)
    record = json.loads(output.with_suffix(".json").read_text())
    assert {row["beta"]: row["share"] for row in record["rows"]} == {0.2: 0.9, 1.0: 0.5}
    assert {row["model"] for row in record["rows"]} == {"mnist-ddpm"}
    assert all(row["path_kl"] is None and "folder" not in row for row in record["rows"])
    assert record["commits"] == ["abc"]
    assert Image.open(output.with_suffix(".png")).size[0] > 500


def test_an_empty_sweep_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        call(images.main, "--sweeps", tmp_path)
    assert ended.value.code == 2 and "no finished run there" in capsys.readouterr().err
