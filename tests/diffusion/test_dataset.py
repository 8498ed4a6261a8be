"""Times and noise of pairs, their keys and the order of epochs."""

import torch

from fdpo.diffusion import DDPM, PairDataset
from fdpo.diffusion.dataset import Images, ResumableSampler
from tests.diffusion.tiny import MakeTrainer, tiny_pairs


def test_times_and_noise_follow_from_seed_epoch_and_pair_alone(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer()
    noises = [
        PairDataset(tiny_pairs(), trainer.process, seed=seed)[epoch, index]["noise"]
        for seed, epoch, index in [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]
    ]
    assert torch.equal(trainer.dataset[0, 0]["noise"], noises[0])
    assert all(not torch.equal(a, b) for i, a in enumerate(noises) for b in noises[:i])


def test_noise_repeats_after_repeat_draws_epochs(make_trainer: MakeTrainer) -> None:
    dataset = make_trainer(repeat_draws=2, reference_cache=None).dataset
    assert torch.equal(dataset[0, 3]["noise"], dataset[2, 3]["noise"])
    assert torch.equal(dataset[1, 3]["keys"]["chosen"], dataset[3, 3]["keys"]["chosen"])
    assert not torch.equal(dataset[0, 3]["noise"], dataset[1, 3]["noise"])


def test_keys_identify_image_conditions_time_and_noise() -> None:
    class Conditioned:
        def __len__(self) -> int:
            return 1

        def pair(self, index: int, generator: torch.Generator) -> dict[str, object]:
            return {**images, "conditions": {side: {"a": {"b": text}} for side in images}}

    images = {"chosen": torch.zeros(1, 2, 2), "rejected": torch.zeros(1, 2, 2)}
    text = torch.zeros(3, dtype=torch.bfloat16)
    dataset = PairDataset(Conditioned(), DDPM(), samples=2, keyed=True)
    first = dataset[0, 0]["keys"]
    assert first["chosen"].shape == (2, 2) and torch.equal(first["chosen"], first["rejected"])
    assert len(first["chosen"].unique(dim=0)) == 2
    images["rejected"] = torch.ones(1, 2, 2)
    assert not torch.equal(dataset[0, 0]["keys"]["rejected"], first["rejected"])
    text = torch.ones(3, dtype=torch.bfloat16)
    assert not torch.equal(dataset[0, 0]["keys"]["chosen"], first["chosen"])


def test_images_without_pairs_have_one_side() -> None:
    images = Images(torch.rand(3, 1, 4, 4))
    pair = images.pair(2, torch.Generator())
    assert len(images) == 3 and list(pair) == ["chosen"]
    assert torch.equal(pair["chosen"], images.images[2])


def test_an_epoch_yields_every_pair_once_and_resumes_anywhere() -> None:
    order = list(ResumableSampler(5, 12, seed=1))
    assert sorted(order[:5]) == [(0, i) for i in range(5)]
    assert sorted(order[5:10]) == [(1, i) for i in range(5)]
    assert [i for _, i in order[:5]] != [i for _, i in order[5:10]]
    for start in range(12):
        assert list(ResumableSampler(5, 12 - start, start, seed=1)) == order[start:]
