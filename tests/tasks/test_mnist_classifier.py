"""The embedded digit classifier on real digits and on images that are no digits."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from fdpo.tasks import PRETRAINED
from fdpo.tasks.mnist import load_mnist
from fdpo.tasks.mnist_classifier import (
    DigitClassifier,
    judge,
    load_classifier,
    load_real_features,
    measure_classifier,
    require_size,
    save_real_features,
    train_classifier,
)
from fdpo.tasks.mnist_foreign import FOREIGN

CLASSIFIER = PRETRAINED / "mnist-classifier"


@pytest.fixture(scope="module")
def digits(data_dir: Path) -> tuple[Tensor, Tensor]:
    return load_mnist(data_dir / "mnist", train=False)


def test_it_classifies_digits(digits: tuple[Tensor, Tensor]) -> None:
    images, labels = digits
    judgement = judge(load_classifier(CLASSIFIER), images)
    assert (judgement.digits == labels).float().mean() >= 0.99
    assert judgement.in_distribution.float().mean() >= 0.98
    torch.testing.assert_close(
        load_real_features(CLASSIFIER, 2), judgement.features[labels == 2], rtol=1e-2, atol=1e-2
    )
    scores = judgement.scores(2)
    assert scores[labels == 2].median() > 5 > -5 > scores[labels != 2].median()


@pytest.mark.parametrize("kind", FOREIGN)
def test_it_flags_images_that_are_no_digits(kind: str, digits: tuple[Tensor, Tensor]) -> None:
    generator = torch.Generator().manual_seed(99)
    foreign = FOREIGN[kind](digits[0][:2000], generator)
    assert foreign.shape == (2000, 1, 28, 28) and foreign.min() >= -1 and foreign.max() <= 1
    flagged = ~judge(load_classifier(CLASSIFIER), foreign).in_distribution
    # Halves of two digits may well be a digit.
    assert flagged.float().mean() >= (0.8 if kind == "halved" else 0.95)


def test_its_measures_are_shares(digits: tuple[Tensor, Tensor]) -> None:
    images, labels = digits[0][:200], digits[1][:200]
    metrics = measure_classifier(load_classifier(CLASSIFIER), images, labels)
    assert list(metrics) == ["accuracy", "passed", *(f"flagged_{kind}" for kind in FOREIGN)]
    judgement = judge(load_classifier(CLASSIFIER), images)
    assert metrics["accuracy"] == (judgement.digits == labels).double().mean().item()
    assert metrics["passed"] == judgement.in_distribution.double().mean().item()
    assert metrics["flagged_noise"] == 1


def test_training_learns_both_kinds(digits: tuple[Tensor, Tensor]) -> None:
    """A few updates tell noise from digits; the same seed gives the same weights."""
    images, labels = digits[0][:400], digits[1][:400]
    first, second = (train_classifier(images, labels, steps=80, batch_size=32) for _ in range(2))
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, other)
    assert not first.training
    assert judge(first, images).in_distribution.float().mean() > 0.9
    noise = FOREIGN["noise"](images, torch.Generator().manual_seed(1))
    assert judge(first, noise).in_distribution.float().mean() < 0.5


def test_features_are_saved_by_digit(tmp_path: Path) -> None:
    judgement = judge(DigitClassifier(width=4, features=8), torch.rand(6, 1, 28, 28))
    save_real_features(tmp_path, judgement, torch.tensor([1, 2, 1, 3, 1, 2]))
    features = load_real_features(tmp_path, 1)
    torch.testing.assert_close(features, judgement.features[[0, 2, 4]], rtol=1e-3, atol=1e-3)
    with pytest.raises(ValueError, match="no real_features.safetensors in this folder"):
        load_real_features(tmp_path / "nowhere", 1)
    with pytest.raises(ValueError, match="classifier .*nowhere: no such folder"):
        load_classifier(tmp_path / "nowhere")


def test_other_sizes_are_refused() -> None:
    require_size((1, 28, 28), "c")
    with pytest.raises(ValueError, match="c judges 1 x 28 x 28 images, the model makes 3 x 8 x 8"):
        require_size((3, 8, 8), "c")
