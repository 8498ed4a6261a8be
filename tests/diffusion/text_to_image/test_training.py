"""Stable Diffusion under the trainer: the published loss, and a LoRA's reference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler
from torch import Tensor
from torch.nn.functional import logsigmoid

from fdpo.diffusion.text_to_image.pipeline import load_pipeline
from tests.diffusion.text_to_image.trainers import Pipelines, every_kind, make_trainer
from tests.diffusion.tiny import get_batch, perturb


@every_kind
def test_reverse_kl_is_the_published_loss(
    pipelines: Pipelines, pair_folder: Path, kind: str
) -> None:
    """On the same latents, noise and times, with diffusers' own noise and the whole U-Net call."""
    trainer = make_trainer(load_pipeline(pipelines(kind)), pair_folder)
    assert trainer.config.kappa == 2500 and trainer.config.beta == 1
    perturb(trainer)
    loaded = get_batch(trainer)
    loss, metrics = trainer.compute_loss(loaded)
    dataset: Any = trainer.dataset.pairs
    batch = dataset.encode(loaded)
    schedule = DDPMScheduler.from_config(
        DDPMScheduler.load_config(pipelines(kind), subfolder="scheduler")
    )
    times, noise = batch["times"][:, 0], batch["noise"][:, 0]

    def error(unet: Any, side: str) -> Tensor:
        latents, conditions = batch[side], batch["conditions"][side]
        target = noise
        if schedule.config.prediction_type == "v_prediction":
            target = schedule.get_velocity(latents, noise, times)
        prediction = unet(schedule.add_noise(latents, noise, times), times, **conditions).sample
        return (prediction - target).square().mean(dim=(1, 2, 3))

    assert trainer.reference is not None
    unets = trainer.policy, trainer.reference.model
    with torch.no_grad():
        policy, base = (error(unet, "chosen") - error(unet, "rejected") for unet in unets)
    published = -logsigmoid(-0.5 * 5000 * (policy - base))
    torch.testing.assert_close(metrics["loss"], published, rtol=2e-3, atol=2e-3)
    assert (policy - base).abs().max() > 1e-4


@pytest.mark.parametrize("precision", ["no", "bf16"])
@pytest.mark.parametrize("kind", ["sd-e", "xl-v"])
def test_an_untouched_lora_is_its_reference(
    pipelines: Pipelines, pair_folder: Path, kind: str, precision: str
) -> None:
    dtype = torch.float32 if precision == "no" else torch.bfloat16
    model = load_pipeline(pipelines(kind), dtype=dtype, unet_dtype=dtype)
    trainer = make_trainer(
        model, pair_folder, rank=2, mixed_precision=precision, gradient_checkpointing=True
    )
    _, metrics = trainer.compute_loss(get_batch(trainer))
    for side in ("chosen", "rejected"):
        assert not metrics[f"log_ratios/{side}"].any()
    trained = {name: p for name, p in trainer.policy.named_parameters() if p.requires_grad}
    assert trained and all("lora" in name for name in trained)
    assert {p.dtype for p in trained.values()} == {torch.float32}
    perturb(trainer)
    loss, metrics = trainer.compute_loss(get_batch(trainer))
    assert metrics["log_ratios/chosen"].all()
    loss.backward()
    assert all(p.grad is not None and p.grad.any() for p in trained.values())
