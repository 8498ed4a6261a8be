"""How often the intervals of results.ipynb hold what they should, in simulations.

    python benchmarks/coverage.py

Prints two tables. *Seeds*: ten methods without any difference, three seeds and 300 openings; the
share of families of nine comparisons in which one is called different after Holm's correction, by
how much seeds spread against the error over openings. *Calibration*: pairs of two policies, of
which one is right as often as it says and the other is too sure (its log-odds times a scale) with
noise of its own; how often the 95 % interval of their difference holds the truth, for the expected
calibration error, whose bootstrap draws are moved to the mean that was measured, for the
root-mean-square error with the noise taken off, and for over-confidence.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from comparisons import by_method, verdict
from text_calibration import calibration_error
from text_runs import moments_of
from torch import Tensor
from torch.nn.functional import one_hot

from fdpo import curves
from fdpo.cli import arguments
from fdpo.estimators.calibration import BINS, right

METHODS, SEEDS, OPENINGS, PAIRS = 10, 3, 300, 310


@dataclass
class Arguments:
    """Simulations."""

    trials: int = field(default=300, metadata={"help": "trials of each simulation"})
    draws: int = field(default=400, metadata={"help": "bootstrap samples in a trial"})
    seed: int = field(default=0, metadata={"help": "of what is simulated"})


def false_families(spread: float, own: Arguments) -> float:
    """Returns the share of families with a difference that is none."""
    generator = torch.Generator().manual_seed(own.seed)
    found = 0
    for _ in range(own.trials):
        values = torch.randn(OPENINGS, METHODS, SEEDS, generator=generator)
        values += torch.randn(OPENINGS, 1, 1, generator=generator)  # an opening's own level
        seeds = torch.randn(METHODS, SEEDS, generator=generator) / OPENINGS**0.5
        means = by_method(curves.resampled(values + spread * seeds, own.draws))
        differences = [curves.difference(means[:, m] - means[:, 0]) for m in range(1, METHODS)]
        corrected = curves.holm([one.p for one in differences])
        pairs = zip(differences, corrected, strict=True)
        found += any(verdict(one, p) != "undecided" for one, p in pairs)
    return found / own.trials


def expected_error(margins: Tensor, draws: int) -> Tensor:
    """Returns the expected calibration error of pairs in both orders, and its moved draws."""
    parts = []
    for margin, label in ((margins, 1.0), (-margins, 0.0)):
        bins = (margin.sigmoid() * BINS).long().clamp(max=BINS - 1)
        parts.append(one_hot(bins, BINS) * (label - margin.sigmoid())[:, None] / 2)
    error = curves.resampled(parts[0] + parts[1], draws).abs().sum(dim=-1)
    return torch.cat([error[:1], error[1:] - error[1:].mean() + error[0]])


def root_error(margins: Tensor, draws: int) -> Tensor:
    """Returns the root-mean-square calibration error and its draws."""
    moments = moments_of(margins, by_prompt=lambda values: values)  # one pair each
    return calibration_error(curves.resampled(moments, draws), len(margins))


def overconfidence(margins: Tensor, draws: int) -> Tensor:
    """Returns the mean probability less the accuracy and its draws."""
    return curves.resampled(margins.abs().sigmoid() - right(margins), draws)


FIGURES: dict[str, Callable[[Tensor, int], Tensor]] = {
    "expected calibration error": expected_error,
    "root mean square, noise off": root_error,
    "over-confidence": overconfidence,
}


def policies(pairs: int, scale: float, noise: float, generator: torch.Generator) -> list[Tensor]:
    """Returns the margins of a calibrated policy and of one that is too sure."""
    sure = 1.5 * torch.randn(pairs, generator=generator, dtype=torch.float64)
    is_right = torch.rand(pairs, generator=generator) < sure.sigmoid()
    margins = torch.where(is_right, sure, -sure)
    own = noise * torch.randn(pairs, generator=generator, dtype=torch.float64)
    return [margins, scale * margins + own]


def held(scale: float, noise: float, own: Arguments) -> dict[str, tuple[float, float, float]]:
    """Returns the true difference by figure, its mean estimate, and how often it is held."""
    generator = torch.Generator().manual_seed(own.seed)
    one, two = policies(1_000_000, scale, noise, generator)
    truth = {name: (of(two, 1)[0] - of(one, 1)[0]).item() for name, of in FIGURES.items()}
    found: dict[str, list[curves.Difference]] = {name: [] for name in FIGURES}
    for _ in range(own.trials):
        one, two = policies(PAIRS, scale, noise, generator)
        for name, of in FIGURES.items():
            found[name].append(curves.difference(of(two, own.draws) - of(one, own.draws)))
    return {
        name: (
            truth[name],
            sum(one.value for one in mine) / own.trials,
            sum(one.low <= truth[name] <= one.high for one in mine) / own.trials,
        )
        for name, mine in found.items()
    }


def main() -> None:
    (own,) = arguments.parse((Arguments,), program="coverage.py")
    print("seeds' spread / openings' error: families with a false difference")
    for spread in (0.0, 1.0, 2.0):
        print(f"{spread:g}: {false_families(spread, own):.2f}", flush=True)
    print("scale, noise: figure: true difference, mean estimate, held by the 95 % interval")
    for scale, noise in ((1.5, 0.0), (1.5, 0.3), (1.0, 0.5), (3.0, 0.3)):
        for name, (truth, mean, share) in held(scale, noise, own).items():
            print(f"{scale:g}, {noise:g}: {name}: {truth:.3f}, {mean:.3f}, {share:.2f}", flush=True)


if __name__ == "__main__":
    main()
