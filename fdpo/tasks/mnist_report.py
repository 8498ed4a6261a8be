"""Metrics and plots of an image model's digits, before and after training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from fdpo.diffusion.evaluate import HELD_OUT_SEED, path_kl, reference_images, sample_images
from fdpo.diffusion.images import tiled, to_image
from fdpo.diffusion.noise import STEPS, NoiseProcess
from fdpo.estimators.diversity import vendi_score
from fdpo.estimators.estimate import Estimate, flat
from fdpo.runs.cache import OFF
from fdpo.runs.files import replacing
from fdpo.tasks.mnist import DIGITS
from fdpo.tasks.mnist_classifier import (
    DigitClassifier,
    Judgement,
    judge,
    load_classifier,
    load_real_features,
)

CLASSES = (*map(str, range(DIGITS)), "none")
"""The names of the bars of a histogram."""
COLOURS = ("#999999", "#0072B2", "#E69F00", "#009E73")
LABELS = {
    "share": "share of the target",
    "out_of_distribution": "out of distribution",
    "variety": "variety",
    "diversity": "diversity of 50",
}


def recall(real: Tensor, samples: Tensor, neighbours: int = 3) -> float:
    """Returns the share of real images on the manifold of the samples.

    A real image is on the manifold if it is as near to some sample as that sample's k-th nearest
    other sample is. (Kynkäänniemi et al., 2019, https://arxiv.org/abs/1904.06991)

    Arguments:
        real: Features of real images, with shape (M, F).
        samples: Features of samples, with shape (N, F).
        neighbours: k.

    Example:
        >>> features = torch.randn(50, 3)
        >>> recall(features, features), recall(features + 100, features)
        (1.0, 0.0)
    """
    if len(samples) <= neighbours:
        return 0.0
    radii = torch.cdist(samples, samples).kthvalue(neighbours + 1, dim=1).values
    return (torch.cdist(real, samples) <= radii).any(1).float().mean().item()


@dataclass(frozen=True)
class Report:
    """A model's samples and the classifier's judgement of them.

    Attributes:
        images: The samples, with shape (N, 1, 28, 28).
        judgement: The judgement.
    """

    images: Tensor
    judgement: Judgement

    @property
    def histogram(self) -> Tensor:
        """Shares of the ten digits, in distribution, and of "none", with shape (11)."""
        shares = [self.judgement.shows(digit).double().mean() for digit in range(DIGITS)]
        return torch.stack([*shares, 1 - self.judgement.in_distribution.double().mean()])

    @property
    def histogram_errors(self) -> Tensor:
        """The binomial standard errors of the histogram, with shape (11)."""
        shares = self.histogram
        return (shares * (1 - shares) / len(self.images)).sqrt()

    def variety(self, digit: int, real: Tensor, block: int = 32, blocks: int = 32) -> float:
        """Returns the recall of real images of a digit by samples that show it.

        The recall falls as samples are added to a manifold of k-th neighbours, so this is the mean
        over random sets of ``block`` samples, which is comparable for any number of samples. Fewer
        than ``block`` samples are one set.

        Arguments:
            digit: The digit.
            real: Features of real images of the digit, with shape (M, F).
            block: The size of a set.
            blocks: The number of sets.
        """
        features = self.judgement.features[self.judgement.shows(digit)]
        generator = torch.Generator().manual_seed(0)
        orders = [torch.randperm(len(features), generator=generator) for _ in range(blocks)]
        return sum(recall(real, features[order[:block]]) for order in orders) / blocks

    def diversity(self, digit: int, real: Tensor, block: int = 50) -> Estimate | None:
        """Returns the Vendi score of samples that show a digit, averaged over blocks.

        The score uses features relative to the mean of real images. It is at most ``block`` and
        comparable for any number of samples; ``None`` if there are fewer than two blocks.

        Arguments:
            digit: The digit.
            real: Features of real images of the digit, with shape (M, F).
            block: The number of samples in a block.
        """
        features = self.judgement.features[self.judgement.shows(digit)] - real.mean(0)
        blocks = len(features) // block
        if blocks < 2:
            return None
        return vendi_score(features[: blocks * block].view(blocks, block, -1))

    def metrics(self, target: int) -> dict[str, float]:
        """Returns the share of a digit and the share out of distribution, with standard errors."""
        shares, errors = self.histogram, self.histogram_errors
        return {
            "share": shares[target].item(),
            "share_se": errors[target].item(),
            "out_of_distribution": shares[-1].item(),
            "out_of_distribution_se": errors[-1].item(),
        }


def report(
    model: nn.Module,
    process: NoiseProcess,
    classifier: DigitClassifier,
    n: int,
    *,
    steps: int = STEPS,
    seed: int = HELD_OUT_SEED,
    progress: str = "",
) -> Report:
    """Samples n images and classifies them (see :func:`fdpo.diffusion.evaluate.sample_images`)."""
    images = sample_images(model, process, n, steps=steps, seed=seed, progress=progress)
    return Report(images, judge(classifier, images))


@dataclass(frozen=True)
class Comparison:
    """Samples of a model before and after training, from the same noise, and their metrics."""

    before: Report
    after: Report
    target: int
    metrics: dict[str, float]

    def plot(self, folder: Path) -> None:
        """Writes ``samples.png`` and ``histogram.png`` into a folder."""
        plot_samples(folder / "samples.png", self.before.images, self.after.images)
        reports = {"before": self.before, "after": self.after}
        plot_histogram(folder / "histogram.png", reports, self.target)


def compare(
    policy: nn.Module,
    base: nn.Module,
    process: NoiseProcess,
    *,
    classifier: str,
    target: int,
    samples: int,
    steps: int,
    reference_cache: str | None = OFF,
) -> Comparison:
    """Compares samples of two models from the same noise.

    Arguments:
        policy: The trained model.
        base: The model before training.
        process: Their noising process.
        classifier: The folder of the classifier.
        target: The target digit.
        samples: The number of samples of each model.
        steps: Model evaluations per sample.
        reference_cache: The folder of the reference cache, which holds the base's samples; ``None``
            for the user's cache folder, ``off`` for no cache.

    Returns:
        The samples, and for both models (the base's names begin with ``base_``) the metrics of
        :class:`Report`: the share of the target, the share out of distribution, the variety and,
        with enough samples, the diversity of the target; and the policy's path KL.
    """
    digit_classifier = load_classifier(classifier, next(policy.parameters()).device)
    real = load_real_features(classifier, target)
    base.to(next(policy.parameters()).device)
    options = {"steps": steps, "seed": HELD_OUT_SEED}
    images = (
        reference_images(
            base, process, samples, **options, folder=reference_cache, progress="sampling before"
        ),
        sample_images(policy, process, samples, **options, progress="sampling after"),
    )
    before, after = (Report(x, judge(digit_classifier, x)) for x in images)
    kl, kl_error = path_kl(policy, base, process, after.images)
    diversities = {
        "base_diversity": before.diversity(target, real),
        "diversity": after.diversity(target, real),
    }
    metrics = {
        **{f"base_{name}": value for name, value in before.metrics(target).items()},
        "base_variety": before.variety(target, real),
        **after.metrics(target),
        "variety": after.variety(target, real),
        **flat({name: value for name, value in diversities.items() if value is not None}),
        "path_kl": kl,
        "path_kl_se": kl_error,
    }
    return Comparison(before, after, target, metrics)


def table(metrics: Mapping[str, float]) -> str:
    """Returns the metrics of a comparison as a table, one line for each."""
    rows = [("", "before", "after")]
    for name, label in LABELS.items():
        rows.append((label, _value(metrics, f"base_{name}"), _value(metrics, name)))
    rows.append(("path KL, nats", "", f"{metrics['path_kl']:.2f} ± {metrics['path_kl_se']:.2f}"))
    return "\n".join(f"{label:22} {before:>16} {after:>16}" for label, before, after in rows)


def _value(metrics: Mapping[str, float], name: str) -> str:
    if name not in metrics:
        return "too few"
    error = metrics.get(f"{name}_se")
    return f"{metrics[name]:.3f}" + ("" if error is None else f" ± {error:.3f}")


def plot_samples(path: str | Path, before: Tensor, after: Tensor, columns: int = 10) -> None:
    """Plots samples before and after training, side by side."""
    from matplotlib.figure import Figure

    n = columns * columns
    figure = Figure(figsize=(10, 5.4), layout="constrained")
    for axis, images, title in zip(
        figure.subplots(1, 2),
        (before, after),
        ("before", "after, from the same noise"),
        strict=True,
    ):
        axis.imshow(to_image(tiled(images[:n], columns)), cmap="gray", vmin=0, vmax=255)
        axis.set_title(title)
        axis.set_axis_off()
    with replacing(path) as beside:
        figure.savefig(beside, dpi=120)


def plot_histogram(path: str | Path, reports: Mapping[str, Report], target: int) -> None:
    """Plots the share of each digit and of "none", with one standard error."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.6), layout="constrained")
    axis = figure.subplots()
    width = 0.8 / len(reports)
    for i, (label, report) in enumerate(reports.items()):
        places = [digit - 0.4 + (i + 0.5) * width for digit in range(len(report.histogram))]
        axis.bar(
            places, report.histogram, width, yerr=report.histogram_errors,
            label=label, color=COLOURS[i % len(COLOURS)], error_kw={"linewidth": 1},
        )  # fmt: skip
    axis.set_xticks(range(len(CLASSES)), CLASSES)
    axis.get_xticklabels()[target].set_fontweight("bold")
    axis.set_xlabel("digit in the image (none: out of distribution)")
    axis.set_ylabel("share of samples")
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False)
    with replacing(path) as beside:
        figure.savefig(beside, dpi=120)
