"""A run resumes from its newest complete checkpoint."""

from pathlib import Path

import pytest

from fdpo import runs


def make_checkpoint(folder: Path, step: int, complete: bool = True) -> Path:
    path = folder / f"checkpoint-{step}"
    path.mkdir(parents=True)
    (path / ("trainer_state.json" if complete else "model.safetensors")).touch()
    return path


def test_last_checkpoint_is_the_newest_complete_one(tmp_path: Path) -> None:
    assert runs.last_checkpoint(tmp_path) is None
    make_checkpoint(tmp_path, 90)
    make_checkpoint(tmp_path, 200)
    make_checkpoint(tmp_path, 300, complete=False)
    (tmp_path / "checkpoint-best").mkdir()
    (tmp_path / "checkpoint-best" / "trainer_state.json").touch()
    assert runs.last_checkpoint(tmp_path) == tmp_path / "checkpoint-200"


def test_checkpoint(tmp_path: Path) -> None:
    assert runs.checkpoint(tmp_path, None) is None
    with pytest.raises(ValueError, match="last: .* holds no run"):
        runs.checkpoint(tmp_path, "last")
    runs.prepare(tmp_path, {"seed": 3})
    assert runs.checkpoint(tmp_path, "last") is None
    path = make_checkpoint(tmp_path, 7)
    assert runs.checkpoint(tmp_path, "last") == str(path)
    assert runs.checkpoint("elsewhere", str(path)) == str(path)
    with pytest.raises(ValueError, match="--resume_from_checkpoint absent: no such folder"):
        runs.checkpoint(tmp_path, "absent")


def test_diffusers_names_of_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``latest`` is the last one, and a bare name is a checkpoint of the run, not of the cwd."""
    run = tmp_path / "run"
    with pytest.raises(ValueError, match="latest: .* holds no run"):
        runs.checkpoint(run, "latest")
    runs.prepare(run, {"seed": 3})
    older, newer = make_checkpoint(run, 7), make_checkpoint(run, 20)
    make_checkpoint(run, 30, complete=False)
    monkeypatch.chdir(tmp_path)
    make_checkpoint(Path(), 7)
    assert runs.checkpoint(run, "latest") == str(newer)
    assert runs.checkpoint(run, "checkpoint-7") == str(older)
    assert runs.checkpoint("elsewhere", "checkpoint-7") == "checkpoint-7"
    with pytest.raises(ValueError, match="checkpoint-8: no such folder; .*checkpoint-7"):
        runs.checkpoint(run, "checkpoint-8")
    with pytest.raises(ValueError, match=r"checkpoint-30 is incomplete \(no trainer_state.json"):
        runs.checkpoint(run, "checkpoint-30")
