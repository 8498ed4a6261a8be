"""Training pairs of captioned images: flips, crops and captions shared by both sides."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fdpo.diffusion.images import decode_image
from fdpo.diffusion.text_to_image.load_pairs import load_captioned_pairs
from fdpo.diffusion.text_to_image.pipeline import load_pipeline
from fdpo.diffusion.text_to_image.transforms import Crop, PairTransform
from tests.diffusion.text_to_image.trainers import Pipelines, make_trainer
from tests.diffusion.tiny import get_batch


def test_a_pair_is_changed_as_one(pipelines: Pipelines, pair_folder: Path) -> None:
    """One flip and one dropped caption for both sides, sampled again for every epoch."""
    model = load_pipeline(pipelines("xl-e"))
    trainer = make_trainer(model, pair_folder)
    pairs, _ = load_captioned_pairs(str(pair_folder))
    unflipped, dropped = [], []
    for epoch in range(12):
        batch = get_batch(trainer, 8, epoch)
        for index in range(8):
            plain = []
            for side in ("chosen", "rejected"):
                pixels = batch["pixels"][side][index]
                image = decode_image(pairs.read(index, side), "a")
                as_is, flipped = (
                    PairTransform(16).apply(image, Crop(flip))[0] for flip in (False, True)
                )
                assert torch.equal(pixels, as_is) or torch.equal(pixels, flipped)
                plain.append(torch.equal(pixels, as_is))
            assert plain[0] == plain[1]
            unflipped.append(plain[0])
        dropped += [caption == "" for caption in batch["caption"]]
    for share in (sum(unflipped) / 96, sum(dropped) / 96):
        assert share == pytest.approx(0.5, abs=0.2)
    sizes = batch["time_ids"]
    assert sizes["chosen"][3].tolist() == [16, 23, 0, 4, 16, 16]
    assert sizes["rejected"][3].tolist() == [24, 18, 2, 0, 16, 16]


def test_a_batch_has_the_documented_shapes(pipelines: Pipelines, pair_folder: Path) -> None:
    trainer = make_trainer(load_pipeline(pipelines("sd-e")), pair_folder)
    batch = get_batch(trainer, 3)
    assert batch["pixels"]["chosen"].shape == (3, 3, 16, 16) and len(batch["caption"]) == 3
    assert batch["latent_noise"]["rejected"].shape == (3, 4, 8, 8)
    assert batch["time_ids"]["chosen"].shape == (3, 6)
    assert trainer.encode is not None
    encoded = trainer.encode(batch)
    assert encoded["chosen"].shape == encoded["rejected"].shape == (3, 4, 8, 8)
    assert encoded["conditions"]["chosen"]["encoder_hidden_states"].shape == (3, 16, 16)
