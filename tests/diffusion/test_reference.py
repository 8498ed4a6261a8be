"""The reference of a policy and the cache of its errors."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fdpo.diffusion.loss import NoisedSides
from fdpo.diffusion.trainer import DiffusionTrainer
from tests.diffusion.tiny import MakeTrainer, get_batch, tiny_model


def test_an_untouched_policy_is_its_reference(make_trainer: MakeTrainer) -> None:
    """Log-ratios are 0 bit for bit, and a tie counts half as accurate."""
    for options in ({"rank": 2}, {"rank": 0}, {"mixed_precision": "bf16", "rank": 2}):
        trainer = make_trainer(**options)
        metrics = trainer.compute_loss(get_batch(trainer))[1]
        for side in ("chosen", "rejected"):
            assert not metrics[f"log_ratios/{side}"].any()
        assert (metrics["rewards/accuracies"] == 0.5).all()


def test_a_model_with_dropout_is_refused(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer()
    trainer.policy.register_forward_hook(
        lambda model, inputs, output: setattr(
            output, "sample", nn.functional.dropout(output.sample, 0.1, model.training)
        )
    )
    with pytest.raises(RuntimeError, match="differs from its reference .* dropout"):
        trainer.train()


def test_an_adapter_leaves_its_reference_alone(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(rank=2, loss="jsd")
    base = tiny_model().requires_grad_(False)  # like the layers under an adapter
    trainer.train()
    batch = get_batch(trainer)
    x_t, times = batch["noise"][:, 0], batch["times"][:, 0]
    assert trainer.reference is not None
    with torch.no_grad():
        reference = trainer.reference.predict(NoisedSides(x_t, times, x_t, {}))
        expected = base(x_t, times).sample
        policy = trainer.policy(x_t, times).sample
        merged = trainer.merged()(x_t, times).sample
    assert torch.equal(reference, expected) and not torch.equal(policy, expected)
    torch.testing.assert_close(merged, policy, rtol=1e-4, atol=1e-5)
    assert type(trainer.merged()) is type(base)


def reference_runs(trainer: DiffusionTrainer) -> tuple[list[float], int]:
    """Trains; returns the losses of all updates and the number of reference passes for them."""
    assert trainer.reference is not None
    passes, predict = [], trainer.reference.predict

    def counted(inputs: NoisedSides) -> Tensor:
        passes.append(1)
        return predict(inputs)

    trainer.reference.predict = counted  # type: ignore[method-assign]
    trainer.train()
    return [row["loss"] for row in trainer.log], len(passes) - 1  # without the check at the start


@pytest.mark.parametrize("rank", [0, 2])
def test_the_reference_is_run_once_for_the_same_noise(
    make_trainer: MakeTrainer, tmp_path: Path, rank: int
) -> None:
    """In repeated epochs and in the runs of a sweep; the losses are those without a cache."""
    options: dict[str, Any] = {
        "rank": rank, "lora_target_modules": ["conv1"], "logging_steps": 1, "max_train_steps": 8,
        "repeat_draws": 1, "reference_cache": str(tmp_path / "cache"), "timesteps_per_pair": 2,
    }  # fmt: skip
    _, passes = reference_runs(make_trainer(**options))
    assert passes == 4  # of two epochs of 16 pairs in batches of 4
    for other in ({"loss": "jsd", "beta": 3.0}, {"kappa": 50.0}, {"learning_rate": 3e-3}):
        cached, passes = reference_runs(make_trainer(**{**options, **other}))
        plain, _ = reference_runs(make_trainer(**{**options, **other, "reference_cache": "off"}))
        assert passes == 0 and cached == pytest.approx(plain, rel=1e-4)
    for changed in ({"seed": 1}, {"flow": True}, {"mixed_precision": "bf16"}):
        assert reference_runs(make_trainer(**{**options, **changed}))[1] == 4


def test_errors_without_keys_are_computed(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    """A cached value may come from another batch; the check at the start needs this batch's."""
    trainer = make_trainer(reference_cache=str(tmp_path))
    batch = get_batch(trainer)
    assert trainer.reference is not None
    keys = torch.cat([batch["keys"][side].flatten(0, 1) for side in ("chosen", "rejected")])
    trainer.reference.cache.add(keys, torch.full((8,), 7.0))
    wrong = trainer.compute_loss(batch)[1]
    assert (wrong["base_errors/chosen"] == 7).all() and (wrong["base_errors/rejected"] == 7).all()
    del batch["keys"]
    assert not trainer.compute_loss(batch)[1]["log_ratios/chosen"].any()
