"""Coverage of the intervals of results.ipynb, by simulation.

    python -m experiments.coverage

Prints two tables. *Seeds*: ten methods without any difference, three seeds and 300 prompts; the
share of families of nine comparisons with a false difference after Holm's correction, by the spread
of seeds relative to the error over prompts. *Calibration*: pairs of a calibrated policy and of one
that is overconfident (its log-odds times a scale) with separate noise; the share of trials in which
the 95 % interval of their difference covers the truth, for the expected calibration error, whose
bootstrap draws are shifted to the measured mean, for the root-mean-square error with the noise
subtracted, and for overconfidence.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from experiments.bootstrap import Difference, bootstrap_means, difference, holm
from experiments.calibration import calibration_error, calibration_moments
from experiments.comparisons import verdict
from experiments.curves import average_seeds_by_method
from fdpo.cli import arguments
from fdpo.estimators.calibration import BINS, right

PROGRAM = "experiments.coverage"
METHODS, SEEDS, PROMPTS, PAIRS = 10, 3, 300, 310


@dataclass
class Arguments:
    """Simulations."""

    trials: int = field(default=300, metadata={"help": "repetitions of each simulation"})
    draws: int = field(default=400, metadata={"help": "bootstrap samples in a trial"})
    seed: int = field(default=0, metadata={"help": "seed of the simulations"})


def false_families(spread: float, args: Arguments) -> float:
    """Returns the share of families of comparisons with a false difference."""
    generator = torch.Generator().manual_seed(args.seed)
    false = 0
    for _ in range(args.trials):
        values = torch.randn(PROMPTS, METHODS, SEEDS, generator=generator)
        values += torch.randn(PROMPTS, 1, 1, generator=generator)  # the level of each prompt
        seeds = torch.randn(METHODS, SEEDS, generator=generator) / PROMPTS**0.5
        means = average_seeds_by_method(bootstrap_means(values + spread * seeds, args.draws))
        differences = [difference(means[:, m] - means[:, 0]) for m in range(1, METHODS)]
        corrected = holm([result.p for result in differences])
        results = zip(differences, corrected, strict=True)
        false += any(verdict(result, p) != "undecided" for result, p in results)
    return false / args.trials


def expected_error(margins: Tensor, draws: int) -> Tensor:
    """Returns the expected calibration error of pairs in both orders, and its shifted draws."""
    parts = []
    for margin, label in ((margins, 1.0), (-margins, 0.0)):
        bins = (margin.sigmoid() * BINS).long().clamp(max=BINS - 1)
        parts.append(one_hot(bins, BINS) * (label - margin.sigmoid())[:, None] / 2)
    error = bootstrap_means(parts[0] + parts[1], draws).abs().sum(dim=-1)
    return torch.cat([error[:1], error[1:] - error[1:].mean() + error[0]])


def root_error(margins: Tensor, draws: int) -> Tensor:
    """Returns the root-mean-square calibration error and its draws."""
    moments = calibration_moments(margins, by_prompt=lambda values: values)  # one pair each
    return calibration_error(bootstrap_means(moments, draws), len(margins))


def overconfidence(margins: Tensor, draws: int) -> Tensor:
    """Returns the mean probability minus the accuracy and its draws."""
    return bootstrap_means(margins.abs().sigmoid() - right(margins), draws)


METRICS: dict[str, Callable[[Tensor, int], Tensor]] = {
    "expected calibration error": expected_error,
    "root mean square, less noise": root_error,
    "overconfidence": overconfidence,
}


def sample_margins(
    pairs: int, scale: float, noise: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Samples the margins of a calibrated policy and of an overconfident one."""
    log_odds = 1.5 * torch.randn(pairs, generator=generator, dtype=torch.float64)
    is_right = torch.rand(pairs, generator=generator) < log_odds.sigmoid()
    margins = torch.where(is_right, log_odds, -log_odds)
    errors = noise * torch.randn(pairs, generator=generator, dtype=torch.float64)
    return margins, scale * margins + errors


def coverage(scale: float, noise: float, args: Arguments) -> dict[str, tuple[float, float, float]]:
    """Returns the true difference by metric, its mean estimate, and the coverage."""
    generator = torch.Generator().manual_seed(args.seed)
    one, two = sample_margins(1_000_000, scale, noise, generator)
    truth = {name: (f(two, 1)[0] - f(one, 1)[0]).item() for name, f in METRICS.items()}
    results: dict[str, list[Difference]] = {name: [] for name in METRICS}
    for _ in range(args.trials):
        one, two = sample_margins(PAIRS, scale, noise, generator)
        for name, f in METRICS.items():
            results[name].append(difference(f(two, args.draws) - f(one, args.draws)))
    return {
        name: (
            truth[name],
            sum(result.value for result in trials) / args.trials,
            sum(result.low <= truth[name] <= result.high for result in trials) / args.trials,
        )
        for name, trials in results.items()
    }


def main() -> None:
    (args,) = arguments.parse((Arguments,), program=PROGRAM)
    print("spread of seeds / error over prompts: families with a false difference")
    for spread in (0.0, 1.0, 2.0):
        print(f"{spread:g}: {false_families(spread, args):.2f}", flush=True)
    print("scale, noise: metric: true difference, mean estimate, coverage of the 95 % interval")
    for scale, noise in ((1.5, 0.0), (1.5, 0.3), (1.0, 0.5), (3.0, 0.3)):
        for name, (truth, mean, share) in coverage(scale, noise, args).items():
            print(f"{scale:g}, {noise:g}: {name}: {truth:.3f}, {mean:.3f}, {share:.2f}", flush=True)


if __name__ == "__main__":
    main()
