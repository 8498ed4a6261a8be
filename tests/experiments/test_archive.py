"""The archive of a sweep's runs restores them and their results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from experiments import archive
from fdpo.cli.pool import SweepRun
from fdpo.runs.rows import read_rows
from tests.experiments.conftest import GAINS, text_results, write_run

ROOT = Path(__file__).parents[2]


def test_archived_runs_are_restored_with_the_same_results(
    sweep: Path, results: dict[str, Any], tmp_path: Path
) -> None:
    """The archive is enough to resume a sweep elsewhere, and to compute its results again."""
    folder, other = tmp_path / "archive", tmp_path / "other"
    assert archive.save(sweep, folder) == 15
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    assert set(before) == {*(f"{m}.jsonl.gz" for m in GAINS), "learning_rates.json"}
    [row, *_] = read_rows(folder / "jsd.jsonl.gz")
    assert list(row) == ["run", "seconds", "record", "measured", "metrics"]
    assert row["record"]["options"]["model_name_or_path"] == "pretrained/imdb-gpt2"
    other.mkdir()
    (other / "learning_rates.json").write_text(
        '{"fkl": {"learning_rate": 1e-5, "runs": [], "trials": []}}'
    )
    write_run(other / "runs/jsd-1.0-1", "jsd", 1.0, 1)
    (other / "runs/jsd-1.0-1/metrics.json").unlink()  # it was interrupted here
    assert archive.restore(folder, other) == 15
    assert not (other / "runs/jsd-1.0-1/samples.jsonl").exists()
    rates = json.loads((other / "learning_rates.json").read_text())
    assert {name: one["learning_rate"] for name, one in rates.items()} == {"jsd": 1e-4, "fkl": 1e-5}
    (other / "learning_rates.json").unlink()
    record = json.loads((other / "runs/jsd-1.0-1/run.json").read_text())
    model = Path(record["options"]["model_name_or_path"])
    assert model == ROOT / "pretrained/imdb-gpt2" and model.exists()
    assert archive.restore(folder, other) == 0 and archive.save(other, folder) == 15
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    seconds = [SweepRun(root, "jsd-1.0-1").seconds() for root in (sweep, other)]
    assert seconds == [65.5, pytest.approx(66, abs=0.3)]
    again = text_results(other)
    for name, content in results.items():
        assert {**again[name], "arguments": None} == {**content, "arguments": None}


def test_rates_of_both_folders_are_united(tmp_path: Path) -> None:
    """The target's choice takes precedence; a method's runs are those of both folders."""
    source, target = tmp_path / "source", tmp_path / "target"
    for folder, rate, run in ((source, 1e-4, "a"), (target, 2e-4, "b")):
        folder.mkdir()
        choice = {"jsd": {"learning_rate": rate, "runs": [run], "trials": []}}
        (folder / "learning_rates.json").write_text(json.dumps(choice))
    archive.unite_rates(target, source, target)
    united = json.loads((target / "learning_rates.json").read_text())
    assert united == {"jsd": {"learning_rate": 2e-4, "runs": ["a", "b"], "trials": []}}


def test_old_name_of_the_archive_option(
    sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "sys.argv", ["program", "--sweep", str(sweep), "--kept", str(tmp_path / "archive")]
    )
    archive.main()
    assert (tmp_path / "archive/jsd.jsonl.gz").exists()
