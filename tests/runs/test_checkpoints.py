"""Checkpoints are whole or not there, and only whole ones count."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
import torch

from fdpo.runs.checkpoints import (
    CheckpointError,
    checkpoints,
    damage,
    obstacle,
    reading,
    remove_unfinished,
    rotate,
    step_of,
    whole_checkpoint,
)
from tests.runs.damage import DAMAGE, FILES, digest, make_checkpoint, plant


def steps(folder: Path) -> list[int]:
    return [step_of(path) for path in checkpoints(folder)]


def test_a_checkpoint_appears_with_all_its_files(tmp_path: Path) -> None:
    with whole_checkpoint(tmp_path, 4) as hidden:
        (hidden / "shards").mkdir()
        (hidden / "shards/0.bin").write_bytes(b"weights")
        assert steps(tmp_path) == []
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-4"]
    assert damage(tmp_path / "checkpoint-4") == ""
    (tmp_path / "checkpoint-4/shards/0.bin").write_bytes(b"half")
    assert damage(tmp_path / "checkpoint-4") == "shards/0.bin has 4 bytes, 7 were written"


@pytest.mark.parametrize("failing", ["write", "rename"])
def test_a_failed_save_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    make_checkpoint(tmp_path, 2)
    make_checkpoint(tmp_path, 4)
    before = digest(tmp_path)
    if failing == "rename":
        monkeypatch.setattr(Path, "rename", lambda *_: (_ for _ in ()).throw(OSError(28, "full")))
    with pytest.raises(CheckpointError, match="checkpoint-4 cannot be saved: .*full"):
        with whole_checkpoint(tmp_path, 4) as hidden:
            (hidden / "model.safetensors").write_text("half")
            if failing == "write":
                raise OSError(28, "full")
    assert digest(tmp_path) == before


def test_leftovers_of_a_killed_save_count_for_nothing(tmp_path: Path) -> None:
    make_checkpoint(tmp_path, 2)
    for step in (4, 6):
        place = tmp_path / f".checkpoint-{step}/checkpoint-{step}"
        make_checkpoint(place.parent, step)
        (place / "manifest.json").unlink()
    (tmp_path / ".checkpoint-8").symlink_to("checkpoint-2")
    assert steps(tmp_path) == [2]
    remove_unfinished(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-2"]
    assert damage(tmp_path / "checkpoint-2") == ""


@pytest.mark.parametrize("kind", DAMAGE)
@pytest.mark.parametrize("name", [*FILES, "manifest.json"])
def test_a_damaged_file_is_named(tmp_path: Path, name: str, kind: str) -> None:
    checkpoint = make_checkpoint(tmp_path, 2)
    assert obstacle(checkpoint) == ""
    DAMAGE[kind](checkpoint / name)
    if (name, kind) == ("manifest.json", "missing"):  # as in older versions
        assert obstacle(checkpoint) == ""
    else:
        assert obstacle(checkpoint).startswith(name)


@pytest.mark.parametrize("manifest", ["[]", '{"files": 3}', '{"files": [1]}', "{}", "null"])
def test_any_other_manifest_is_damaged(tmp_path: Path, manifest: str) -> None:
    checkpoint = make_checkpoint(tmp_path, 2)
    (checkpoint / "manifest.json").write_text(manifest)
    assert obstacle(checkpoint) == "manifest.json is damaged"


@pytest.mark.parametrize("name", FILES[1:])
def test_a_checkpoint_without_a_manifest_needs_every_state(tmp_path: Path, name: str) -> None:
    checkpoint = make_checkpoint(tmp_path, 2, manifest=False)
    assert obstacle(checkpoint) == ""
    (checkpoint / name).unlink()
    assert "is missing" in obstacle(checkpoint)
    (checkpoint / name).touch()
    assert obstacle(checkpoint) == f"{name} is empty"


def test_a_sharded_checkpoint_of_torch_is_refused(tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path, 2)
    (checkpoint / "pytorch_model_fsdp_0").mkdir()
    (checkpoint / "pytorch_model_fsdp_0/.metadata").touch()
    assert obstacle(checkpoint).startswith("pytorch_model_fsdp_0/.metadata may hold code")


@pytest.mark.parametrize("seed", range(20))
def test_rotation_removes_the_earliest_and_never_too_many(tmp_path: Path, seed: int) -> None:
    """A run resumes anywhere, under any limit; some of its checkpoints are damaged."""
    generator = random.Random(seed)
    for step in generator.sample(range(1, 20), 6):
        make_checkpoint(tmp_path, step)
    broken = generator.sample(checkpoints(tmp_path), 2)
    for path in broken:
        (path / "optimizer.pt").unlink()
    before = {step_of(path) for path in checkpoints(tmp_path) if not damage(path)}
    limit, step = generator.randint(1, 4), generator.randint(1, 19)
    newest, best = make_checkpoint(tmp_path, step), generator.choice(sorted(before))
    whole = before | {step}
    rotate(tmp_path, limit, newest, keep=[f"checkpoint-{best}"])
    left = {step_of(path) for path in checkpoints(tmp_path) if not damage(path)}
    assert {s for s in whole if s >= step} | {best} <= left
    assert len(left) >= min(limit, len(whole))
    removed = whole - left
    assert all(old < kept for old in removed for kept in left - {best})
    if removed:
        assert len(left) >= limit
    if len(left) > limit:  # all that is left is protected
        assert all(s >= step or s == best for s in left)
    assert all(path.is_dir() for path in broken)


def test_without_a_limit_all_stay(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        newest = make_checkpoint(tmp_path, step)
    rotate(tmp_path, None, newest)
    rotate(tmp_path, 0, newest)
    assert steps(tmp_path) == [1, 2, 3]


def test_no_code_runs_where_a_library_allows_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    plant(tmp_path / "state.pkl", tmp_path / "mark")
    with pytest.raises(CheckpointError, match="checkpoint-2 cannot be read: .* holds code") as e:
        with reading("checkpoint-2"):
            torch.load(tmp_path / "state.pkl", weights_only=False)
    assert not (tmp_path / "mark").exists() and "\n" not in str(e.value)
    assert os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] == "1"
    assert "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ
    torch.load(tmp_path / "state.pkl", weights_only=False)
    assert (tmp_path / "mark").exists()
