"""Stable Diffusion under the trainer: the published loss, its start, its conditions, pictures."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState, GradientState
from diffusers import DDPMScheduler, DiffusionPipeline
from torch import Tensor
from torch.nn.functional import logsigmoid
from torch.utils.data import default_collate

from fdpo.diffusion import DiffusionTrainer
from fdpo.diffusion.text_to_image.config import StableDiffusionConfig
from fdpo.diffusion.text_to_image.dataset import TextToImagePairs
from fdpo.diffusion.text_to_image.latents import LatentCache
from fdpo.diffusion.text_to_image.pairs import load_pairs
from fdpo.diffusion.text_to_image.pipeline import StableDiffusion, load
from fdpo.diffusion.text_to_image.transforms import PairTransform

Pipelines = Callable[..., str]
every_kind = pytest.mark.parametrize("kind", ["sd-e", "sd-v", "xl-e", "xl-v"])


def make_trainer(
    model: StableDiffusion, folder: Path, cache: LatentCache | None = None, **options: Any
) -> DiffusionTrainer:
    """A trainer of the eight pairs; a pair's draws follow from its number and the seed alone."""
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    pairs, _ = load_pairs(str(folder))
    prepared = TextToImagePairs(
        pairs, model, PairTransform(16, random_flip=True), empty_prompts=0.5, cache=cache
    )
    given = {
        "output_dir": str(folder / "run"), "train_batch_size": 4, "gradient_accumulation_steps": 1,
        "use_cpu": True, **options,
    }  # fmt: skip
    config = StableDiffusionConfig(**given)
    return DiffusionTrainer(model.unet, model.process, prepared, config, encode=prepared.encode)


def batch_of(trainer: DiffusionTrainer, n: int = 4, epoch: int = 0) -> dict[str, Any]:
    return default_collate([trainer.dataset[epoch, index] for index in range(n)])


def moved(trainer: DiffusionTrainer) -> None:
    """Takes the policy a step away from the reference."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in trainer.policy.parameters():
            if parameter.requires_grad:
                parameter += 0.02 * torch.randn(parameter.shape, generator=generator)


@every_kind
def test_reverse_kl_is_the_published_loss(
    pipelines: Pipelines, pair_folder: Path, kind: str
) -> None:
    """On the same latents, noise and times, with diffusers' own noise and the whole U-Net call."""
    trainer = make_trainer(load(pipelines(kind)), pair_folder)
    assert trainer.config.kappa == 2500 and trainer.config.beta == 1
    moved(trainer)
    loaded = batch_of(trainer)
    loss, figures = trainer.compute_loss(loaded)
    prepared: Any = trainer.dataset.pairs
    batch = prepared.encode(loaded)
    schedule = DDPMScheduler.from_config(
        DDPMScheduler.load_config(pipelines(kind), subfolder="scheduler")
    )
    times, noise = batch["times"][:, 0], batch["noise"][:, 0]

    def error(unet: Any, side: str) -> Tensor:
        latents, conditions = batch[side], batch["conditions"][side]
        target = noise
        if schedule.config.prediction_type == "v_prediction":
            target = schedule.get_velocity(latents, noise, times)
        found = unet(schedule.add_noise(latents, noise, times), times, **conditions).sample
        return (found - target).square().mean(dim=(1, 2, 3))

    assert trainer.reference is not None
    unets = trainer.policy, trainer.reference.model
    with torch.no_grad():
        policy, base = (error(unet, "chosen") - error(unet, "rejected") for unet in unets)
    published = -logsigmoid(-0.5 * 5000 * (policy - base))
    torch.testing.assert_close(figures["loss"], published, rtol=2e-3, atol=2e-3)
    assert (policy - base).abs().max() > 1e-4


@pytest.mark.parametrize("precision", ["no", "bf16"])
@pytest.mark.parametrize("kind", ["sd-e", "xl-v"])
def test_an_untouched_lora_is_its_reference(
    pipelines: Pipelines, pair_folder: Path, kind: str, precision: str
) -> None:
    dtype = torch.float32 if precision == "no" else torch.bfloat16
    model = load(pipelines(kind), dtype=dtype, unet_dtype=dtype)
    trainer = make_trainer(
        model, pair_folder, rank=2, mixed_precision=precision, gradient_checkpointing=True
    )
    _, figures = trainer.compute_loss(batch_of(trainer))
    for side in ("chosen", "rejected"):
        assert not figures[f"log_ratios/{side}"].any()
    trained = {name: p for name, p in trainer.policy.named_parameters() if p.requires_grad}
    assert trained and all("lora" in name for name in trained)
    assert {p.dtype for p in trained.values()} == {torch.float32}
    moved(trainer)
    loss, figures = trainer.compute_loss(batch_of(trainer))
    assert figures["log_ratios/chosen"].all()
    loss.backward()
    assert all(p.grad is not None and p.grad.any() for p in trained.values())


@every_kind
def test_kept_latents_give_the_same_loss(
    pipelines: Pipelines, pair_folder: Path, tmp_path: Path, kind: str
) -> None:
    model = load(pipelines(kind))
    cache = LatentCache(tmp_path / "cache", model, PairTransform(16, random_flip=True))
    pairs, _ = load_pairs(str(pair_folder))
    # Sixteen pictures, flipped and not; eight captions and the empty one.
    assert cache.fill(pairs, captions=[""]) == 41
    assert cache.fill(pairs, captions=[""]) == 0
    figures = []
    for kept in (None, cache):
        trainer = make_trainer(load(pipelines(kind)), pair_folder, kept)
        moved(trainer)
        figures.append(trainer.compute_loss(batch_of(trainer, 8))[1])
    assert figures[0]["log_ratios/chosen"].abs().min() > 0
    for name, values in figures[0].items():
        torch.testing.assert_close(figures[1][name], values, rtol=1e-3, atol=1e-3, msg=name)


def test_a_pair_is_changed_as_one(pipelines: Pipelines, pair_folder: Path) -> None:
    """One flip and one dropped caption for both sides, drawn anew for every epoch."""
    model = load(pipelines("xl-e"))
    trainer = make_trainer(model, pair_folder)
    pairs, _ = load_pairs(str(pair_folder))
    flips, dropped = [], []
    for epoch in range(12):
        batch = batch_of(trainer, 8, epoch)
        for index in range(8):
            found = []
            for side in ("chosen", "rejected"):
                seen = batch["pixels"][side][index]
                plain = plain_pixels(pairs.read(index, side))
                assert torch.equal(seen, plain) or torch.equal(
                    seen, plain_flipped(pairs, index, side)
                )
                found.append(torch.equal(seen, plain))
            assert found[0] == found[1]
            flips.append(found[0])
        dropped += [caption == "" for caption in batch["caption"]]
    for share in (sum(flips) / 96, sum(dropped) / 96):
        assert share == pytest.approx(0.5, abs=0.2)
    sizes = batch["time_ids"]
    assert sizes["chosen"][3].tolist() == [16, 23, 0, 4, 16, 16]
    assert sizes["rejected"][3].tolist() == [24, 18, 2, 0, 16, 16]


def plain_pixels(data: bytes, flip: bool = False) -> Tensor:
    from fdpo.diffusion.text_to_image.transforms import Cut, decode

    return PairTransform(16).apply(decode(data, "a"), Cut(flip))[0]


def plain_flipped(pairs: Any, index: int, side: str) -> Tensor:
    return plain_pixels(pairs.read(index, side), flip=True)


def test_conditions_are_the_pipelines_own(pipelines: Pipelines) -> None:
    model = load(pipelines("xl-e"))
    text = model.text(["a cat", ""])
    sizes = torch.tensor([[20.0, 16, 2, 0, 16, 16]]).repeat(2, 1)
    conditions = model.conditions(text, sizes)
    width = model.text_encoders[1].config.projection_dim
    own = model.pipeline._get_add_time_ids((20, 16), (2, 0), (16, 16), torch.float32, width)
    assert torch.equal(conditions["added_cond_kwargs"]["time_ids"][:1], own)
    assert text["text_embeds"].shape == (2, 8) and text["encoder_hidden_states"].shape == (
        2,
        16,
        32,
    )
    plain = load(pipelines("sd-e"))
    assert set(plain.conditions(plain.text(["a cat"]), sizes)) == {"encoder_hidden_states"}


@pytest.mark.parametrize("kind", ["sd-e", "xl-v"])
def test_pictures_are_those_of_the_pipeline(pipelines: Pipelines, kind: str) -> None:
    """Whatever the batch; the pipeline itself draws the same with the same generators."""
    model = load(pipelines(kind))
    prompts, seeds = ["a cat", "a dog", "a fox"], [5, 6, 7]
    drawn = model.draw(model.unet, prompts, seeds, steps=3, guidance_scale=3.0)
    pipeline = DiffusionPipeline.from_pretrained(pipelines(kind))
    pipeline.set_progress_bar_config(disable=True)
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    own = pipeline(prompts, num_inference_steps=3, guidance_scale=3.0, generator=generators).images
    alone = model.draw(model.unet, prompts[1:2], seeds[1:2], steps=3, guidance_scale=3.0)
    assert drawn[0].size == (16, 16)
    for mine, other in [*zip(drawn, own, strict=True), (drawn[1], alone[0])]:
        gap = np.abs(np.asarray(mine, dtype=int) - np.asarray(other, dtype=int))
        assert gap.max() <= 1
    assert np.asarray(drawn[0]).std() > 1 and drawn[0] != drawn[1]


def test_another_encoder_or_frame_reads_other_files(pipelines: Pipelines, tmp_path: Path) -> None:
    model = load(pipelines("sd-e"))
    kept = LatentCache(tmp_path, model, PairTransform(16))
    same = LatentCache(tmp_path, load(pipelines("sd-v")), PairTransform(16, random_flip=True))
    assert kept.pictures == same.pictures and kept.texts == same.texts  # the same encoders
    assert LatentCache(tmp_path, model, PairTransform(32)).pictures != kept.pictures
    half = LatentCache(tmp_path, load(pipelines("sd-e"), dtype=torch.bfloat16), PairTransform(16))
    assert half.pictures != kept.pictures and half.texts != kept.texts
    with torch.no_grad():
        model.vae.encoder.conv_in.bias += 1e-3
    other = LatentCache(tmp_path, model, PairTransform(16))
    assert other.pictures != kept.pictures and other.texts == kept.texts
    with pytest.raises(ValueError, match="--cache_latents: the crops of --random_crop"):
        LatentCache(tmp_path, model, PairTransform(16, random_crop=True))


def test_models_that_are_not_trained_here(pipelines: Pipelines, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    shutil.copytree(pipelines("sd-e", channels=9), tmp_path / "inpainting")
    others = {"inpaint": "StableDiffusionInpaintPipeline", "sd3": "StableDiffusion3Pipeline"}
    for name, kind in others.items():
        folder = shutil.copytree(pipelines("sd-e"), tmp_path / name)
        index = json.loads((folder / "model_index.json").read_text())
        (folder / "model_index.json").write_text(json.dumps(index | {"_class_name": kind}))
    sample = shutil.copytree(pipelines("sd-e"), tmp_path / "sample")
    config = json.loads((sample / "scheduler/scheduler_config.json").read_text())
    (sample / "scheduler/scheduler_config.json").write_text(
        json.dumps(config | {"prediction_type": "sample"})
    )
    bare = shutil.copytree(pipelines("sd-e"), tmp_path / "bare")
    (bare / "unet/diffusion_pytorch_model.safetensors").unlink()
    for name, message in [
        ("empty", "this folder is no pipeline"),
        ("nowhere", "no such folder, and no hub id"),
        ("inpaint", "is a StableDiffusionInpaintPipeline; trained are StableDiffusionPipeline and"),
        ("sd3", "is a StableDiffusion3Pipeline; trained are"),
        ("inpainting", "takes 9 channels, latents have 4: is it an inpainting model"),
        ("sample", "the model predicts 'sample'"),
        ("bare", "cannot be loaded"),
    ]:
        with pytest.raises(ValueError, match=message) as caught:
            load(str(tmp_path / name))
        assert "\n" not in str(caught.value), name
    with pytest.raises(ValueError, match="model nobody/nothing: "):
        load("nobody/nothing")
    with pytest.raises(ValueError, match="--resolution 18: must be a multiple of 4"):
        load(pipelines("sd-e")).latent_shape(18)
