"""Cache of latents and text embeddings: contents, counts, names."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from fdpo.diffusion.text_to_image.latents import LatentCache
from fdpo.diffusion.text_to_image.load_pairs import load_captioned_pairs
from fdpo.diffusion.text_to_image.pipeline import load_pipeline
from fdpo.diffusion.text_to_image.transforms import PairTransform
from tests.diffusion.text_to_image.trainers import Pipelines, every_kind, make_trainer
from tests.diffusion.tiny import get_batch, perturb


@every_kind
def test_cached_latents_give_the_same_loss(
    pipelines: Pipelines, pair_folder: Path, tmp_path: Path, kind: str
) -> None:
    model = load_pipeline(pipelines(kind))
    cache = LatentCache(tmp_path / "cache", model, PairTransform(16, random_flip=True))
    pairs, _ = load_captioned_pairs(str(pair_folder))
    # Sixteen images, flipped and not; eight captions and the empty one.
    assert cache.fill(pairs, captions=[""]) == 41
    assert cache.fill(pairs, captions=[""]) == 0
    metrics = []
    for used in (None, cache):
        trainer = make_trainer(load_pipeline(pipelines(kind)), pair_folder, used)
        perturb(trainer)
        metrics.append(trainer.compute_loss(get_batch(trainer, 8))[1])
    assert metrics[0]["log_ratios/chosen"].abs().min() > 0
    for name, values in metrics[0].items():
        torch.testing.assert_close(metrics[1][name], values, rtol=1e-3, atol=1e-3, msg=name)


def test_equal_images_are_encoded_once_and_missing_files_again(
    pipelines: Pipelines, pair_folder: Path, tmp_path: Path
) -> None:
    file = pair_folder / "train.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    rows += [{**row, "rejected": rows[0]["rejected"]} for row in rows[1:]]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    cache = LatentCache(
        tmp_path / "cache", load_pipeline(pipelines("sd-e")), PairTransform(16, random_flip=True)
    )
    pairs, _ = load_captioned_pairs(str(pair_folder))
    assert len(pairs) == 15 and cache.fill(pairs, batch_size=3) == 32 + 8
    removed = [
        next(folder.rglob("*.safetensors")) for folder in (cache.image_folder, cache.text_folder)
    ]
    contents = [load_file(path) for path in removed]
    for path in removed:
        path.unlink()
    assert cache.fill(pairs) == 2
    for path, content in zip(removed, contents, strict=True):
        torch.testing.assert_close(load_file(path), content, rtol=1e-4, atol=1e-5)
    assert not list(cache.image_folder.rglob(".*"))


def test_another_encoder_or_transform_uses_other_files(
    pipelines: Pipelines, tmp_path: Path
) -> None:
    model = load_pipeline(pipelines("sd-e"))
    cache = LatentCache(tmp_path, model, PairTransform(16))
    same = LatentCache(
        tmp_path, load_pipeline(pipelines("sd-v")), PairTransform(16, random_flip=True)
    )
    assert cache.image_folder == same.image_folder  # the same encoders
    assert cache.text_folder == same.text_folder
    assert LatentCache(tmp_path, model, PairTransform(32)).image_folder != cache.image_folder
    half = LatentCache(
        tmp_path, load_pipeline(pipelines("sd-e"), dtype=torch.bfloat16), PairTransform(16)
    )
    assert half.image_folder != cache.image_folder and half.text_folder != cache.text_folder
    with torch.no_grad():
        model.vae.encoder.conv_in.bias += 1e-3
    other = LatentCache(tmp_path, model, PairTransform(16))
    assert other.image_folder != cache.image_folder and other.text_folder == cache.text_folder
    with pytest.raises(ValueError, match="--cache_latents: random crops"):
        LatentCache(tmp_path, model, PairTransform(16, random_crop=True))
