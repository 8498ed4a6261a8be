"""Cache of latents and text embeddings: contents, counts, names."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from fdpo.diffusion.text_to_image.latents import LatentCache
from fdpo.diffusion.text_to_image.load_pairs import load_captioned_pairs
from fdpo.diffusion.text_to_image.pipeline import load_pipeline
from fdpo.diffusion.text_to_image.transforms import PairTransform
from tests.diffusion.text_to_image.trainers import Pipelines, every_kind, make_trainer
from tests.diffusion.tiny import get_batch, perturb
from tests.runs.damage import plant


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


def read(file: Path) -> dict[str, torch.Tensor]:
    """Reads a file without keeping it open."""
    return {name: value.clone() for name, value in load_file(file).items()}


DAMAGE: dict[str, Callable[[Path], object]] = {
    "empty": lambda file: file.write_bytes(b""),
    "cut": lambda file: file.write_bytes(file.read_bytes()[:-9]),
    "other names": lambda file: save_file({"numbers": torch.ones(3)}, file),
    "another shape": lambda file: save_file({k: v[:1] for k, v in read(file).items()}, file),
    "code": lambda file: plant(file, file.with_name("mark")),
    "another dtype": lambda file: save_file({k: v.double() for k, v in read(file).items()}, file),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_files_are_made_again_with_one_line(
    pipelines: Pipelines, pair_folder: Path, tmp_path: Path, damage: str
) -> None:
    cache = LatentCache(tmp_path / "cache", load_pipeline(pipelines("sd-e")), PairTransform(16))
    pairs, _ = load_captioned_pairs(str(pair_folder))
    cache.fill(pairs)
    files = [
        *sorted(cache.image_folder.rglob("*.safetensors"))[:2],
        *sorted(cache.text_folder.rglob("*.safetensors"))[:1],
    ]
    contents = [read(file) for file in files]
    for file in files:
        DAMAGE[damage](file)
    with pytest.warns(UserWarning, match="is damaged and made again") as notes:
        assert cache.fill(pairs) == 3
    assert len(notes) == 1 and cache.fill(pairs) == 0
    assert not list(tmp_path.rglob("mark"))
    for file, content in zip(files, contents, strict=True):
        torch.testing.assert_close(load_file(file), content, rtol=1e-4, atol=1e-5)


def test_where_the_cache_cannot_be_written_training_encodes_as_it_goes(
    pipelines: Pipelines, pair_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cache").write_text("not a folder")
    model = load_pipeline(pipelines("sd-e"))
    losses = []
    for cached in (False, True):
        cache = LatentCache(tmp_path / "cache", model, PairTransform(16)) if cached else None
        trainer = make_trainer(load_pipeline(pipelines("sd-e")), pair_folder, cache)
        dataset: Any = trainer.dataset.pairs
        with warnings.catch_warnings(record=True) as notes:
            warnings.simplefilter("always")
            dataset.fill_cache()
        assert [("is not written" in str(one.message)) for one in notes] == [True] * cached
        assert dataset.cache is None
        losses.append(trainer.compute_loss(get_batch(trainer, 8))[1]["loss"])
    torch.testing.assert_close(*losses)


def test_files_that_are_lost_in_training_are_encoded_with_one_line(
    pipelines: Pipelines, pair_folder: Path, tmp_path: Path
) -> None:
    cache = LatentCache(tmp_path / "cache", load_pipeline(pipelines("sd-e")), PairTransform(16))
    pairs, _ = load_captioned_pairs(str(pair_folder))
    cache.fill(pairs)
    data, where, caption = pairs.read(0, "chosen"), pairs.where(0, "chosen"), pairs.caption(0)
    whole = cache.image(data, False, where), cache.text(caption)
    for file in (tmp_path / "cache").rglob("*.safetensors"):
        file.unlink()
    with pytest.warns(UserWarning, match="is lost and encoded as it comes") as notes:
        again = cache.image(data, False, where), cache.text(caption)
    torch.testing.assert_close(again, whole, rtol=1e-4, atol=1e-5)
    assert len(notes) == 1
