"""Checkpoints of transformers' trainers: whole, counted, resumed from to the same end."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset

from fdpo.llm.trainer import FDPOTrainer
from fdpo.runs.checkpoints import CheckpointError, checkpoints, damage
from tests.llm.training import config
from tests.runs.damage import digest

Make = Callable[..., FDPOTrainer]


@pytest.fixture
def make(tiny_model: Path, pairs: Dataset, tmp_path: Path) -> Make:
    """Returns a function that makes a trainer with a checkpoint at every step."""

    def trainer(name: str = "run", **options: Any) -> FDPOTrainer:
        saving = {"save_strategy": "steps", "save_steps": 1, "save_total_limit": None}
        args = config(tmp_path / name, **{**saving, "max_steps": 3, "seed": 3, **options})
        return FDPOTrainer(str(tiny_model), args, train_dataset=pairs, eval_dataset=pairs)

    return trainer


def names(folder: Path) -> list[str]:
    return [path.name for path in checkpoints(folder)]


def kill(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt  # which, like a kill, no handler of errors sees


@pytest.mark.parametrize("restored", [False, True])
@pytest.mark.parametrize("last", [False, True])
def test_a_killed_run_resumes_to_the_same_end(
    make: Make, tmp_path: Path, last: bool, restored: bool
) -> None:
    """Also where its last step was no epoch's end, whose checkpoint it leaves as it is."""
    whole = make("whole")
    whole.train()
    step = 3 if last else 1
    before = digest(tmp_path / f"whole/checkpoint-{step}")
    resumed = make("resumed", restore_callback_states_from_checkpoint=restored)
    resumed.train(str(tmp_path / f"whole/checkpoint-{step}"))
    assert resumed.state.global_step == 3
    for name, weight in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], weight), name
    assert resumed.tokens_seen == whole.tokens_seen > 0
    counts = [[row.get("num_tokens") for row in t.state.log_history] for t in (whole, resumed)]
    assert counts[0] == counts[1]
    ends = [trainer.state.log_history[-1]["train_loss"] for trainer in (whole, resumed)]
    assert ends[0] == pytest.approx(ends[1], rel=1e-6) and ends[0] > 0
    assert digest(tmp_path / f"whole/checkpoint-{step}") == before


def test_a_kill_while_saving_leaves_no_checkpoint(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(save_steps=2).train()
    assert names(tmp_path / "run") == ["checkpoint-2", "checkpoint-3"]
    trainer = make(save_total_limit=1)
    monkeypatch.setattr(trainer, "_save_rng_state", kill)
    with pytest.raises(KeyboardInterrupt):
        trainer.train(str(tmp_path / "run/checkpoint-2"))
    assert names(tmp_path / "run") == ["checkpoint-2", "checkpoint-3"]
    make(save_total_limit=1).train(True)
    assert [damage(path) for path in checkpoints(tmp_path / "run")] == ["", ""]


def test_only_whole_checkpoints_count(make: Make, tmp_path: Path) -> None:
    make().train()
    (tmp_path / "run/checkpoint-2/optimizer.pt").write_bytes(b"half")
    (tmp_path / "run/checkpoint-3/optimizer.pt").unlink()
    with pytest.raises(ValueError, match="checkpoint-3: optimizer.pt is missing; .*checkpoint-1"):
        make().train(str(tmp_path / "run/checkpoint-3"))
    trainer = make(save_total_limit=1)
    with pytest.warns(UserWarning, match="checkpoint-3: optimizer.*checkpoint-2: .*checkpoint-1$"):
        trainer.train(True)
    assert names(tmp_path / "run") == ["checkpoint-3"]
    assert damage(tmp_path / "run/checkpoint-3") == ""


def test_a_checkpoint_without_an_optimizer_is_refused(make: Make, tmp_path: Path) -> None:
    make(save_only_model=True, save_total_limit=2).train()
    assert names(tmp_path / "run") == ["checkpoint-2", "checkpoint-3"]
    with pytest.raises(ValueError, match="the optimizer is missing .--save_only_model"):
        make().train(str(tmp_path / "run/checkpoint-3"))


def test_damage_that_the_sizes_do_not_show_is_one_line(make: Make, tmp_path: Path) -> None:
    trainer = make(max_steps=2)
    trainer.train()
    trainer.args.save_strategy = "no"
    for name in ("optimizer.pt", "rng_state.pth", "trainer_state.json", "model.safetensors"):
        file = tmp_path / "run/checkpoint-1" / name
        content = file.read_bytes()
        file.write_bytes(b"x" * len(content))
        with pytest.raises(CheckpointError, match="checkpoint-1 cannot be read: ") as error:
            trainer.train(str(file.parent))
        assert "\n" not in str(error.value), name
        file.write_bytes(content)


def test_the_best_checkpoint_stays_under_its_name(make: Make, tmp_path: Path) -> None:
    options = {"eval_strategy": "steps", "eval_steps": 1, "save_total_limit": 1}
    options |= {"load_best_model_at_end": True, "metric_for_best_model": "eval_entropy"}
    trainer = make(greater_is_better=True, max_steps=4, **options)
    trainer.train()
    state = trainer.state
    best = tmp_path / f"run/checkpoint-{state.best_global_step}"
    assert state.best_model_checkpoint == str(best) and damage(best) == ""
    written = json.loads((best / "trainer_state.json").read_text())
    assert written["best_model_checkpoint"] == str(best)
    assert names(tmp_path / "run") == [best.name]


def test_a_checkpoint_is_uploaded_from_its_place(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import Trainer

    uploaded: list[str] = []

    def push(trainer: Any, folder: str) -> None:
        uploaded.extend([folder, damage(Path(folder))])
        raise ConnectionError("no network")

    monkeypatch.setattr(Trainer, "init_hf_repo", lambda *_: None)
    monkeypatch.setattr(Trainer, "_push_from_checkpoint", push)
    trainer = make(max_steps=1, push_to_hub=True)
    with pytest.warns(UserWarning, match="checkpoint-1 is not uploaded: ConnectionError: no net"):
        trainer.train()
    assert uploaded == [str(tmp_path / "run/checkpoint-1"), ""]


def test_without_a_checkpoint_there_is_none_to_resume_from(make: Make) -> None:
    with pytest.raises(ValueError, match="holds no checkpoint"):
        make().train(True)
