"""A run resumes from its newest whole checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest

from fdpo import runs
from tests.runs.damage import DAMAGE, FILES, make_checkpoint


def test_last_checkpoint_is_the_newest_whole_one(tmp_path: Path) -> None:
    assert runs.last_checkpoint(tmp_path) is None
    make_checkpoint(tmp_path, 90, manifest=False)
    make_checkpoint(tmp_path, 200)
    (make_checkpoint(tmp_path, 300, manifest=False) / "trainer_state.json").unlink()
    make_checkpoint(tmp_path, 400).rename(tmp_path / "checkpoint-best")
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
    monkeypatch.chdir(tmp_path)
    make_checkpoint(Path(), 7)
    assert runs.checkpoint(run, "latest") == str(newer)
    assert runs.checkpoint(run, "checkpoint-7") == str(older)
    assert runs.checkpoint("elsewhere", "checkpoint-7") == "checkpoint-7"
    with pytest.raises(ValueError, match="checkpoint-8: no such folder; .*checkpoint-7"):
        runs.checkpoint(run, "checkpoint-8")


@pytest.mark.parametrize("kind", DAMAGE)
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_checkpoint_is_named_and_left_aside(tmp_path: Path, name: str, kind: str) -> None:
    runs.prepare(tmp_path, {"seed": 3})
    older, newer = make_checkpoint(tmp_path, 7), make_checkpoint(tmp_path, 20)
    DAMAGE[kind](newer / name)
    with pytest.warns(UserWarning, match=f"^checkpoint-20: {name} .*resumes from .*checkpoint-7"):
        assert runs.checkpoint(tmp_path, "last") == str(older)
    with pytest.raises(ValueError, match=f"checkpoint-20: {name} .*; .*checkpoint-7 is whole"):
        runs.checkpoint(tmp_path, "checkpoint-20")
    DAMAGE[kind](older / name)
    with pytest.raises(ValueError, match=f"no whole checkpoint .*checkpoint-7: {name}.*rm -r"):
        runs.checkpoint(tmp_path, "last")
