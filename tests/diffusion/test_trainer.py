"""Training runs of the image trainer against each other."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fdpo.runs.checkpoints import CheckpointError
from tests.diffusion.tiny import MakeTrainer, assert_same, get_batch, weights


@pytest.mark.parametrize("rank", [0, 2])
def test_accumulated_batches_are_one_large_batch(make_trainer: MakeTrainer, rank: int) -> None:
    # Large, so that Adam does not turn the rounding of gradients that are 0 into steps.
    options = {"rank": rank, "adam_epsilon": 1e-3}
    torch.manual_seed(0)
    large = make_trainer(train_batch_size=8, name="a", **options)
    large.train()
    torch.manual_seed(0)
    parts = make_trainer(train_batch_size=2, gradient_accumulation_steps=4, name="b", **options)
    parts.train()
    assert_same(weights(large.policy), weights(parts.policy), rtol=1e-3, atol=2e-5)
    for one, other in zip(large.log, parts.log, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-4)


@pytest.mark.parametrize("options", [{}, {"rank": 2}, {"use_ema": True}], ids=str)
def test_a_resumed_run_ends_with_the_same_weights(
    make_trainer: MakeTrainer, tmp_path: Path, options: dict[str, Any]
) -> None:
    torch.manual_seed(0)
    whole = make_trainer(name="whole", max_train_steps=6, logging_steps=1, **options)
    whole.train()
    torch.manual_seed(0)
    first = make_trainer(
        name="parts", max_train_steps=6, logging_steps=1, checkpointing_steps=3, **options
    )
    first.config.max_train_steps = 4  # as if it had been stopped after the fourth update
    first.train()
    again = make_trainer(name="parts", max_train_steps=6, logging_steps=1, **options)
    again.train(tmp_path / "parts/checkpoint-3")
    assert_same(weights(whole.finished()), weights(again.finished()))
    assert [row["loss"] for row in whole.log] == [row["loss"] for row in again.log]
    assert [row["step"] for row in again.log] == [1, 2, 3, 4, 5, 6]
    lines = (tmp_path / "parts/log.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("use_ema", [False, True])
def test_a_run_killed_after_its_last_step_ends_the_same(
    make_trainer: MakeTrainer, tmp_path: Path, use_ema: bool
) -> None:
    """Its metrics too: the recent log-ratios are part of the checkpoint."""
    options: dict[str, Any] = {"checkpointing_steps": 2, "max_train_steps": 4, "use_ema": use_ema}
    whole = make_trainer(name="whole", **options)
    whole.train()
    end, quantiles = weights(whole.finished()), whole.quantiles()
    resumed = make_trainer(name="resumed", **options)
    resumed.train(tmp_path / "whole/checkpoint-4")
    assert_same(weights(resumed.finished()), end)
    assert resumed.quantiles() == quantiles and resumed.seconds == whole.seconds
    assert not (tmp_path / "resumed/checkpoint-4").exists()


def test_a_checkpoint_of_version_0_1_with_a_moving_average(
    make_trainer: MakeTrainer, tmp_path: Path
) -> None:
    """Accelerate saved the average, pickled, and there was no manifest."""
    options: dict[str, Any] = {"use_ema": True, "ema_decay": 0.5, "max_train_steps": 2}
    first = make_trainer(name="first", checkpointing_steps=2, **options)
    first.train()
    assert first.ema is not None
    first.accelerator.register_for_checkpointing(first.ema)
    first.accelerator.save_state(str(tmp_path / "old/checkpoint-2"))
    state = {"step": 2, "seconds": 1.5, "log": []}
    (tmp_path / "old/checkpoint-2/trainer_state.json").write_text(json.dumps(state))
    assert (tmp_path / "old/checkpoint-2/custom_checkpoint_0.pkl").exists()
    end = weights(first.finished())
    again = make_trainer(name="again", **options)
    again.train(tmp_path / "old/checkpoint-2")
    assert_same(weights(again.finished()), end)
    again.save_checkpoint()
    assert not (tmp_path / "again/checkpoint-2/custom_checkpoint_0.pkl").exists()
    other = make_trainer(name="other", **{**options, "use_ema": False})
    with pytest.raises(CheckpointError, match="moving average"):
        other.train(tmp_path / "again/checkpoint-2")


def test_damage_that_the_sizes_do_not_show_is_one_line(
    make_trainer: MakeTrainer, tmp_path: Path
) -> None:
    """Of the random states too, about which Accelerate keeps quiet."""
    trainer = make_trainer(max_train_steps=2, checkpointing_steps=1, use_ema=True)
    trainer.train()
    names = {path.name for path in (tmp_path / "run/checkpoint-2").iterdir()} - {"manifest.json"}
    assert len(names) == 6
    for name in names:
        file = tmp_path / "run/checkpoint-2" / name
        content = file.read_bytes()
        file.write_bytes(b"x" * len(content))
        with pytest.raises(CheckpointError, match="checkpoint-2 cannot be read: ") as error:
            trainer.train(file.parent)
        assert "\n" not in str(error.value), name
        file.write_bytes(content[:9])
        with pytest.raises(ValueError, match=f"checkpoint-2: {name} has 9 bytes"):
            trainer.train(file.parent)
        file.write_bytes(content)


def test_a_validation_that_fails_costs_no_run(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    def validate(model: nn.Module) -> dict[str, float]:
        raise RuntimeError("out of\nmemory")

    trainer = make_trainer(validation_steps=2, max_train_steps=2, use_ema=True)
    with pytest.warns(UserWarning, match="^step 2: no validation: RuntimeError: out of memory$"):
        trainer.train(validate=validate)
    assert trainer.step == 2 and trainer.policy.training


def test_a_finished_run_is_extended(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    """From its last checkpoint it becomes the longer run."""
    options: dict[str, Any] = {"logging_steps": 1, "use_ema": True}
    torch.manual_seed(0)
    whole = make_trainer(name="whole", max_train_steps=6, **options)
    whole.train()
    torch.manual_seed(0)
    short = make_trainer(name="short", max_train_steps=4, checkpointing_steps=3, **options)
    short.train()
    longer = make_trainer(name="short", max_train_steps=6, **options)
    longer.train(tmp_path / "short/checkpoint-3")
    assert_same(weights(whole.finished()), weights(longer.finished()))


def test_an_extended_run_follows_the_longer_schedule(
    make_trainer: MakeTrainer, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"lr_scheduler": "cosine", "lr_warmup_steps": 0, "logging_steps": 1}
    short = make_trainer(name="short", max_train_steps=4, checkpointing_steps=4, **options)
    short.train()
    longer = make_trainer(name="short", max_train_steps=8, **options)
    used: list[float] = []
    longer.optimizer.optimizer.register_step_pre_hook(
        lambda o, *_: used.append(o.param_groups[0]["lr"])
    )
    longer.train(tmp_path / "short/checkpoint-4")
    peak = longer.config.learning_rate
    expected = [peak * (1 + math.cos(math.pi * step / 8)) / 2 for step in range(4, 8)]
    assert used == pytest.approx(expected)


def test_the_moving_average_is_the_finished_model(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(use_ema=True, ema_decay=0.5, max_train_steps=2)
    trainer.train()
    last = list(map(torch.clone, trainer.policy.parameters()))
    assert trainer.ema is not None
    shadow = [p.clone() for p in trainer.ema.shadow_params]
    finished = list(trainer.finished().parameters())
    assert all(torch.equal(a, b) for a, b in zip(shadow, finished, strict=True))
    assert any((a != b).any() for a, b in zip(last, finished, strict=True))


@pytest.mark.parametrize("rank", [0, 2])
def test_the_averaged_policy_is_restored(make_trainer: MakeTrainer, rank: int) -> None:
    """Also after an error inside; the average itself stays as it is."""
    trainer = make_trainer(use_ema=True, ema_decay=0.5, max_train_steps=2, rank=rank)
    trainer.train()
    before = weights(trainer.policy)
    assert trainer.ema is not None
    shadow = [p.clone() for p in trainer.ema.shadow_params]
    with pytest.raises(ZeroDivisionError), trainer.averaged_policy() as model:
        trainable = [p for p in model.parameters() if p.requires_grad]
        assert not model.training
        assert all(torch.equal(a, b) for a, b in zip(trainable, shadow, strict=True))
        assert any((value != before[name]).any() for name, value in model.state_dict().items())
        raise ZeroDivisionError
    assert_same(weights(trainer.policy), before)
    assert all(torch.equal(a, b) for a, b in zip(trainer.ema.shadow_params, shadow, strict=True))


def test_without_an_average_the_policy_itself_is_yielded(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer()
    with trainer.averaged_policy() as model:
        assert model is trainer.policy


def test_validation_sees_the_finished_model_and_leaves_training_alone(
    make_trainer: MakeTrainer, tmp_path: Path
) -> None:
    """The weights are the same with and without validation, the moving average's included."""
    options = {"use_ema": True, "ema_decay": 0.5, "logging_steps": 4}
    unwatched = make_trainer(name="unwatched", **options)
    unwatched.train()
    seen: list[Tensor] = []

    def validate(model: nn.Module) -> dict[str, float]:
        assert not model.training
        torch.randn(5)
        seen.append(nn.utils.parameters_to_vector(model.parameters()).detach().clone())
        return {"share": len(seen) / 4}

    trainer = make_trainer(name="seen", validation_steps=2, **options)
    trainer.train(validate=validate)
    weights = nn.utils.parameters_to_vector(trainer.finished().parameters())
    assert torch.equal(
        weights, nn.utils.parameters_to_vector(unwatched.finished().parameters())
    ) and torch.equal(weights, seen[1])
    rows = [json.loads(line) for line in (tmp_path / "seen/log.jsonl").open()]
    assert [(r["step"], r["validation/share"]) for r in rows if "validation/share" in r] == [
        (2, 0.25), (4, 0.5),
    ]  # fmt: skip


def test_trackers_get_the_log(
    make_trainer: MakeTrainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import wandb
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    trainer = make_trainer(report_to="wandb,tensorboard", logging_steps=2, validation_steps=4)
    trainer.train(validate=lambda model: {"share": 0.5})
    trainer.accelerator.end_training()
    wandb.teardown()  # it would use the folder in later tests
    assert list(tmp_path.glob("wandb/offline-run-*/*.wandb"))
    events = EventAccumulator(str(tmp_path / "run/fdpo"))
    events.Reload()
    steps = {name: [e.step for e in events.Scalars(name)] for name in events.Tags()["scalars"]}
    assert steps["log_ratios/chosen"] == [2, 4] and steps["validation/share"] == [4]
    values = [event.value for event in events.Scalars("errors/rejected")]
    logged = [row["errors/rejected"] for row in trainer.log if "errors/rejected" in row]
    assert values == pytest.approx(logged, rel=1e-5)


def test_a_loss_that_is_not_finite_stops_the_run(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer()
    pairs: Any = trainer.dataset.pairs
    pairs.images[pairs.pairs[5][0]] = float("nan")
    with pytest.raises(FloatingPointError, match=r"step \d+: the loss of pair 5 is nan"):
        trainer.train()


def test_training_with_any_loss_moves_the_sides_apart(make_trainer: MakeTrainer) -> None:
    for loss in ("sigmoid", "hinge", "jsd", "fkl", "jeffreys", "0.5*js+0.5*reverse_kl"):
        trainer = make_trainer(loss=loss, train_batch_size=16, max_train_steps=8)
        trainer.train()
        batch = get_batch(trainer, 16)
        assert trainer.compute_loss(batch)[1]["rewards/margins"].mean() > 0, loss
        assert set(trainer.quantiles()) == {
            f"log_ratio_{side}_q{q}" for side in ("chosen", "rejected") for q in ("05", "50", "95")
        }


def test_unknown_lora_layers(make_trainer: MakeTrainer) -> None:
    with pytest.raises(ValueError, match="--lora_target_modules: .*nowhere"):
        make_trainer(rank=2, lora_target_modules=["nowhere"])


def test_what_a_machine_lacks_is_said_before_training(make_trainer: MakeTrainer) -> None:
    with pytest.raises(ValueError, match="--mixed_precision fp16 needs a GPU: on a CPU choose"):
        make_trainer(mixed_precision="fp16", use_cpu=True)
    with pytest.raises(ImportError, match="--report_to clearml: pip install clearml"):
        make_trainer(report_to="tensorboard,clearml")
