"""The digit classifier of pretrained/ on real digits and on what is none; recall; the report."""

from pathlib import Path

import pytest
import torch

from fdpo.diffusion.evaluate import Report
from fdpo.tasks.mnist import (
    FOREIGN,
    DigitClassifier,
    Judged,
    judge,
    load_classifier,
    load_real_features,
    recall,
    save_real_features,
)
from fdpo.tasks.mnist_data import load_mnist

CLASSIFIER = Path(__file__).parents[2] / "pretrained/mnist-classifier"


@pytest.fixture(scope="module")
def digits(data_dir: Path) -> tuple[torch.Tensor, torch.Tensor]:
    return load_mnist(data_dir / "mnist", train=False)


def test_it_knows_digits(digits: tuple[torch.Tensor, torch.Tensor]) -> None:
    pictures, labels = digits
    judged = judge(load_classifier(CLASSIFIER), pictures)
    assert (judged.digits == labels).float().mean() >= 0.99
    assert judged.genuine.float().mean() >= 0.98
    torch.testing.assert_close(
        load_real_features(CLASSIFIER, 2), judged.features[labels == 2], rtol=1e-2, atol=1e-2
    )
    scores = judged.scores(2)
    assert scores[labels == 2].median() > 5 > -5 > scores[labels != 2].median()


@pytest.mark.parametrize("kind", FOREIGN)
def test_it_knows_what_is_none(kind: str, digits: tuple[torch.Tensor, torch.Tensor]) -> None:
    generator = torch.Generator().manual_seed(99)
    foreign = FOREIGN[kind](digits[0][:2000], generator)
    assert foreign.shape == (2000, 1, 28, 28) and foreign.min() >= -1 and foreign.max() <= 1
    flagged = ~judge(load_classifier(CLASSIFIER), foreign).genuine
    # Halves of two digits may well be a digit.
    assert flagged.float().mean() >= (0.8 if kind == "halved" else 0.95)


def judged_as(digits: list[int]) -> Judged:
    """Pictures that plainly show these digits; 10 is none."""
    wanted = torch.tensor(digits)
    return Judged(10 * torch.eye(11)[wanted], torch.zeros(len(digits), 2), wanted < 10)


def test_the_histogram_counts_what_is_in_distribution() -> None:
    report = Report(torch.zeros(8, 1, 28, 28), judged_as([2, 2, 2, 7, 10, 10, 0, 1]))
    assert report.histogram.tolist() == [1 / 8, 1 / 8, 3 / 8, 0, 0, 0, 0, 1 / 8, 0, 0, 2 / 8]
    metrics = report.metrics(2)
    assert metrics["share"] == 3 / 8 and metrics["out_of_distribution"] == 2 / 8
    assert metrics["share_se"] == pytest.approx((3 / 8 * 5 / 8 / 8) ** 0.5)


def test_recall_of_known_sets() -> None:
    """All of a set by itself, none of one far off, half of one of which half is far off."""
    near = torch.randn(200, 3, generator=torch.Generator().manual_seed(0))
    assert recall(near, near) == 1
    assert recall(near + 100, near) == 0
    assert recall(torch.cat([near, near + 100]), near) == 0.5
    one_mode = near[:1] + 1e-3 * near
    assert recall(near, one_mode) < 0.05
    assert recall(near, near[:3]) == 0


def test_variety_does_not_depend_on_the_number_of_samples() -> None:
    """Of samples of one distribution; those of half of it have half of its variety."""
    generator = torch.Generator().manual_seed(0)
    real = torch.cat([torch.randn(400, 8, generator=generator) + 30 * side for side in (0, 1)])

    def variety(n: int, sides: tuple[int, ...]) -> float:
        features = torch.cat([torch.randn(n, 8, generator=generator) + 30 * s for s in sides])
        two, genuine = torch.eye(11)[torch.full((len(features),), 2)], torch.ones(len(features))
        report = Report(torch.zeros(0), Judged(two, features, genuine.bool()))
        return report.variety(2, real)

    few, many = variety(40, (0, 1)), variety(1000, (0, 1))
    assert few == pytest.approx(many, abs=0.05) and many > 0.6
    assert variety(1000, (0,)) < 0.5
    none = Report(torch.zeros(0), judged_as([10, 7]))
    assert none.variety(2, torch.zeros(3, 2)) == 0


def test_features_are_kept_by_digit(tmp_path: Path) -> None:
    judged = judge(DigitClassifier(width=4, features=8), torch.rand(6, 1, 28, 28))
    save_real_features(tmp_path, judged, torch.tensor([1, 2, 1, 3, 1, 2]))
    found = load_real_features(tmp_path, 1)
    torch.testing.assert_close(found, judged.features[[0, 2, 4]], rtol=1e-3, atol=1e-3)
    with pytest.raises(ValueError, match="no real_features.safetensors in this folder"):
        load_real_features(tmp_path / "nowhere", 1)
    with pytest.raises(ValueError, match="classifier .*nowhere: no such folder"):
        load_classifier(tmp_path / "nowhere")
