"""An image model beside its reference: figures, and pictures of both."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from fdpo.diffusion.evaluate import HELD_OUT_SEED, Report, path_kl, sample_images
from fdpo.diffusion.noise import NoiseProcess
from fdpo.diffusion.reference_images import reference_images
from fdpo.estimators.estimate import flat
from fdpo.runs.cache import OFF
from fdpo.tasks.mnist import judge, load_classifier, load_real_features
from fdpo.tasks.mnist_plots import draw_histogram, draw_samples


def compare(
    policy: nn.Module,
    base: nn.Module,
    process: NoiseProcess,
    folder: Path,
    *,
    classifier: str,
    target: int,
    samples: int,
    steps: int,
    reference_cache: str | None = OFF,
) -> dict[str, float]:
    """Samples from both models with the same noise, judges the samples and draws them.

    Writes ``samples.png`` and ``histogram.png`` into the folder. Returns, for both (the base's with
    ``base_``), the share of the target among all samples, those out of distribution not counting;
    the share of these; the variety and, of enough of them, the diversity of the target's samples;
    and the policy's path KL. The base's samples are kept in the folder ``reference_cache`` for
    later comparisons, None for that in the user's cache folder; by default they are not.
    """
    judge_of_digits = load_classifier(classifier, next(policy.parameters()).device)
    real = load_real_features(classifier, target)
    base.to(next(policy.parameters()).device)
    options = {"steps": steps, "seed": HELD_OUT_SEED}
    drawn = {
        "before": reference_images(
            base, process, samples, **options, folder=reference_cache, progress="sampling before"
        ),
        "after": sample_images(policy, process, samples, **options, progress="sampling after"),
    }
    reports = {name: Report(shown, judge(judge_of_digits, shown)) for name, shown in drawn.items()}
    before, after = reports["before"], reports["after"]
    draw_samples(folder / "samples.png", before.pictures, after.pictures)
    draw_histogram(folder / "histogram.png", reports, target)
    kl, kl_error = path_kl(policy, base, process, after.pictures)
    diversities = {
        f"{prefix}diversity": found
        for prefix, shown in (("base_", before), ("", after))
        if (found := shown.diversity(target, real)) is not None
    }
    return {
        **{f"base_{name}": value for name, value in before.metrics(target).items()},
        "base_variety": before.variety(target, real),
        **after.metrics(target),
        "variety": after.variety(target, real),
        **flat(diversities),
        "path_kl": kl,
        "path_kl_se": kl_error,
    }


def table(metrics: dict[str, float]) -> str:
    """Shows what changed, a line for each figure."""
    lines = [f"{'':22} {'before':>16} {'after':>16}"]
    labels = {
        "share": "share of the target",
        "out_of_distribution": "out of distribution",
        "variety": "variety",
        "diversity": "diversity of 50",
    }
    for name, label in labels.items():
        cells = []
        for prefix in ("base_", ""):
            value, error = metrics.get(prefix + name), metrics.get(f"{prefix}{name}_se")
            spread = "" if error is None else f" ± {error:.3f}"
            cells.append("too few" if value is None else f"{value:.3f}{spread}")
        lines.append(f"{label:22} {cells[0]:>16} {cells[1]:>16}")
    kl = f"{metrics['path_kl']:.2f} ± {metrics['path_kl_se']:.2f}"
    lines.append(f"{'path KL, nats':22} {'':16} {kl:>16}")
    return "\n".join(lines)
