"""The report on a model's digits: histogram, recall, variety, diversity and the table."""

import pytest
import torch

from fdpo.tasks.mnist_classifier import Judgement
from fdpo.tasks.mnist_report import Report, recall, table


def judgement_of_digits(digits: list[int]) -> Judgement:
    """Returns a judgement of images that plainly show these digits; 10 is none."""
    targets = torch.tensor(digits)
    return Judgement(10 * torch.eye(11)[targets], torch.zeros(len(digits), 2), targets < 10)


def report_of_features(features: torch.Tensor, digit: int = 3) -> Report:
    """Returns a report on samples with these features, each of which shows a digit."""
    n = len(features)
    judgement = Judgement(torch.eye(11)[[digit] * n], features, torch.ones(n).bool())
    return Report(torch.empty(n, 1, 28, 28), judgement)


def test_the_histogram_counts_images_in_distribution() -> None:
    report = Report(torch.zeros(8, 1, 28, 28), judgement_of_digits([2, 2, 2, 7, 10, 10, 0, 1]))
    assert report.histogram.tolist() == [1 / 8, 1 / 8, 3 / 8, 0, 0, 0, 0, 1 / 8, 0, 0, 2 / 8]
    metrics = report.metrics(2)
    assert metrics["share"] == 3 / 8 and metrics["out_of_distribution"] == 2 / 8
    assert metrics["share_se"] == pytest.approx((3 / 8 * 5 / 8 / 8) ** 0.5)


def test_recall_of_known_sets() -> None:
    """All of a set by itself, none of a distant set, half of a set of which half is distant."""
    near = torch.randn(200, 3, generator=torch.Generator().manual_seed(0))
    assert recall(near, near) == 1
    assert recall(near + 100, near) == 0
    assert recall(torch.cat([near, near + 100]), near) == 0.5
    one_mode = near[:1] + 1e-3 * near
    assert recall(near, one_mode) < 0.05
    assert recall(near, near[:3]) == 0


def test_variety_does_not_depend_on_the_number_of_samples() -> None:
    """Samples of half of a distribution have half of its variety."""
    generator = torch.Generator().manual_seed(0)
    real = torch.cat([torch.randn(400, 8, generator=generator) + 30 * side for side in (0, 1)])

    def variety(n: int, sides: tuple[int, ...]) -> float:
        features = torch.cat([torch.randn(n, 8, generator=generator) + 30 * s for s in sides])
        return report_of_features(features, digit=2).variety(2, real)

    few, many = variety(40, (0, 1)), variety(1000, (0, 1))
    assert few == pytest.approx(many, abs=0.05) and many > 0.6
    assert variety(1000, (0,)) < 0.5
    none = Report(torch.zeros(0), judgement_of_digits([10, 7]))
    assert none.variety(2, torch.zeros(3, 2)) == 0


def test_diversity_does_not_depend_on_the_number_of_samples() -> None:
    real = torch.tensor([[6.0, 0, 0], [4.0, 0, 0]])
    spread = torch.randn(4000, 3, generator=torch.Generator().manual_seed(0))
    few, many = (
        report_of_features(spread[:n] + real.mean(0)).diversity(3, real) for n in (400, 4000)
    )
    assert few is not None and many is not None
    assert abs(few.value - many.value) < 4 * (few.error + many.error) and 2.5 < many.value < 3
    alike = report_of_features(torch.ones(100, 3)).diversity(3, real)
    assert alike is not None and alike[:2] == pytest.approx((1, 0), abs=1e-6)
    assert report_of_features(spread[:99]).diversity(3, real) is None  # less than two blocks
    assert report_of_features(spread).diversity(4, real) is None


def test_the_table_shows_both_models() -> None:
    metrics = {
        "base_share": 0.1, "base_share_se": 0.01, "share": 0.9, "share_se": 0.02,
        "base_out_of_distribution": 0.1, "base_out_of_distribution_se": 0.01,
        "out_of_distribution": 0.25, "out_of_distribution_se": 0.02,
        "base_variety": 0.5, "variety": 0.4, "base_diversity": 3.0, "base_diversity_se": 0.1,
        "path_kl": 12.346, "path_kl_se": 0.5,
    }  # fmt: skip
    lines = [line.split() for line in table(metrics).splitlines()]
    assert lines[0] == ["before", "after"]
    assert lines[1][-6:] == ["0.100", "±", "0.010", "0.900", "±", "0.020"]
    assert lines[3] == ["variety", "0.500", "0.400"]
    assert lines[4][-5:] == ["3.000", "±", "0.100", "too", "few"]
    assert lines[5][-3:] == ["12.35", "±", "0.50"]
