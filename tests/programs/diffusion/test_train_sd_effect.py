"""Training of a tiny Stable Diffusion that moves its images towards the chosen ones."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler

from fdpo.diffusion.images import decode_image
from fdpo.diffusion.text_to_image.pipeline import StableDiffusion, load_pipeline
from fdpo.diffusion.text_to_image.transforms import Crop, PairTransform
from tests.programs.diffusion.sd import Pipelines, Run, train


@pytest.mark.slow
def test_images_move_towards_the_chosen_side(run_sd: Run, pipelines: Pipelines) -> None:
    """The f-DPO loss alone moves the images of a model of red and blue towards red."""
    rows = [json.loads(line) for line in Path("pairs/train.jsonl").read_text().splitlines()]
    swapped = [{**r, "chosen": r["rejected"], "rejected": r["chosen"]} for r in rows]
    Path("pairs/both.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows + swapped))
    options = {"train_batch_size": 8, "logging_steps": 50, "cache_latents": True}
    train(
        run_sd, pipelines("sd-e"), **options, dataset_split_name="both", method="sft",
        max_train_steps=200, learning_rate=2e-3, output_dir="both",
    )  # fmt: skip
    train(
        run_sd, "both", **options, loss="jsd", max_train_steps=80, learning_rate=1e-4,
        output_dir="policy",
    )  # fmt: skip
    both = load_pipeline("both")
    red, blue = (mean_latents(both, side) for side in ("chosen", "rejected"))
    places = []
    for model in (both, load_pipeline("policy")):
        shift = (sample_latents(model) - blue) * (red - blue)
        places.append(shift.flatten(1).sum(1) / (red - blue).square().sum())
        error = places[-1].std().item() / math.sqrt(len(shift))
        print(f"{places[-1].mean().item():.2f} ± {error:.2f}; blue is 0, red is 1")
    gaps = places[1] - places[0]  # sampled from the same noise
    print(f"moved by {gaps.mean().item():.2f} ± {gaps.std().item() / math.sqrt(len(gaps)):.2f}")
    assert gaps.mean() > 4 * gaps.std() / math.sqrt(len(gaps))


def mean_latents(model: StableDiffusion, side: str) -> torch.Tensor:
    """Returns the mean latents of one colour's images."""
    pixels = [
        PairTransform(16).apply(decode_image(path.read_bytes(), "a"), Crop())[0]
        for path in Path("pairs").glob(f"{side}-*.png")
    ]
    return model.moments(torch.stack(pixels))[:, 0].mean(0)


@torch.no_grad()
def sample_latents(model: StableDiffusion) -> torch.Tensor:
    """Samples latents of one caption from noise that is the same for every model."""
    noise = torch.randn(64, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    text = model.encode_text(["picture 1"])["encoder_hidden_states"].repeat(64, 1, 1)
    unet = model.unet.eval()
    latents: torch.Tensor = noise
    sampler = DDIMScheduler.from_config(model.pipeline.scheduler.config, clip_sample=False)
    sampler.set_timesteps(20)
    for t in sampler.timesteps:
        latents = sampler.step(unet(latents, t, text).sample, t, latents).prev_sample
    return latents
