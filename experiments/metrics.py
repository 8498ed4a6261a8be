"""Metrics of all runs of a text sweep, one value for each prompt or pair."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from experiments.bootstrap import bootstrap_means
from experiments.calibration import calibration_error, calibration_moments
from experiments.measurements import measurements
from experiments.runs import Run, predicts_probabilities
from fdpo.estimators.calibration import right
from fdpo.runs import METRICS, read_json

MOMENTS = "calibration_moments"
PROBABILISTIC = ("nll", "overconfidence", "calibration_error")
"""Metrics that take the logistic function of a margin for the policy's probability."""

Values = dict[str, tuple[Tensor, Tensor]]
"""Metric -> its values for the policy and for the reference, a row for each prompt."""


@dataclass(frozen=True)
class SweepMetrics:
    """Metrics of every run, one value for each prompt or pair: NaN where there is no run.

    Arguments:
        methods: The names along the second dimension.
        betas: Those along the fourth, after the reference, which is the first point of a curve.
        seeds: Those along the third.
        values: Metric -> values with shape (P, M, S, 1 + K); ``kl`` is the distance.
        missing: Runs that do not exist, at a beta that their method has with another seed;
            curves and answers leave their methods out.
    """

    methods: list[str]
    betas: list[float]
    seeds: list[int]
    values: dict[str, Tensor]
    missing: list[tuple[str, float, int]]

    def exclusion(self, method: str, metric: str) -> str:
        """Returns the reason why a method is left out for a metric; "" if it is not."""
        if metric in PROBABILISTIC and not predicts_probabilities(method):
            return "no probability"
        return "run missing" if any(run[0] == method for run in self.missing) else ""

    def bootstrap(self, draws: int) -> dict[str, Tensor]:
        """Returns bootstrap means of all metrics, with shape (1 + draws, M, S, 1 + K).

        Metrics that need a probability are NaN for methods whose loss does not predict one.
        """
        means = {
            name: bootstrap_means(values, draws)
            for name, values in self.values.items()
            if name != MOMENTS
        }
        if MOMENTS in self.values:  # one method after the other: it takes memory
            moments = self.values[MOMENTS].unbind(dim=1)
            errors = [calibration_error(bootstrap_means(m, draws), len(m)) for m in moments]
            means["calibration_error"] = torch.stack(errors, dim=1)
        for name in means:
            for m, method in enumerate(self.methods):
                if name in PROBABILISTIC and not predicts_probabilities(method):
                    means[name][:, m] = math.nan
        return means


def load_metrics(runs: Sequence[Run], reward: str) -> SweepMetrics:
    """Reads the metrics of each run on each prompt and pair.

    Arguments:
        runs: The runs.
        reward: The scorer whose reward is the gain.

    Raises:
        ValueError: If two runs have the same method, beta and seed, or were measured on different
            prompts or pairs.
    """
    methods = list(dict.fromkeys(run.method for run in runs))
    betas = sorted({run.beta for run in runs})
    seeds = sorted({run.seed for run in runs})
    require_distinct(runs)
    require_same_prompts(runs)
    metrics: dict[str, Tensor] = {}
    for run in runs:
        place = methods.index(run.method), seeds.index(run.seed), 1 + betas.index(run.beta)
        for name, (values, base) in run_metrics(run, reward).items():
            if name not in metrics:
                shape = (len(values), len(methods), len(seeds), 1 + len(betas), *values.shape[1:])
                metrics[name] = torch.full(shape, math.nan, dtype=torch.float64)
                metrics[name][:, :, :, 0] = base[:, None, None]
            metrics[name][:, *place] = values
    present = {(run.method, run.beta, run.seed) for run in runs}
    points = dict.fromkeys((run.method, run.beta) for run in runs)
    missing = [(m, b, s) for m, b in points for s in seeds if (m, b, s) not in present]
    return SweepMetrics(methods, betas, seeds, metrics, missing)


def require_distinct(runs: Sequence[Run]) -> None:
    """Raises ``ValueError`` if two runs have the same method, beta and seed."""
    folders: dict[tuple[str, float, int], Path] = {}
    for run in runs:
        other = folders.setdefault((run.method, run.beta, run.seed), run.folder)
        if other != run.folder:
            raise ValueError(
                f"{run.folder} and {other} are both of {run.method}, beta {run.beta:g}, seed "
                f"{run.seed}: a sweep's results need one run of each"
            )


def require_same_prompts(runs: Sequence[Run]) -> None:
    """Raises ``ValueError`` if the runs were measured on different prompts or pairs."""
    expected = measurements(runs[0].folder)["fingerprint"]
    for run in runs:
        if measurements(run.folder)["fingerprint"] != expected:
            raise ValueError(
                f"{run.folder}: measured on other prompts or pairs than {runs[0].folder}"
            )


def run_metrics(run: Run, reward: str) -> Values:
    """Returns the metrics of a run on prompts and on held-out pairs."""
    measured = measurements(run.folder)
    pairs = measured["pairs"]
    return prompt_metrics(run.folder, measured["prompts"], reward) | pair_metrics(
        pairs["prompt"], pairs["margin"]
    )


def prompt_metrics(folder: Path, measured: Mapping[str, Any], reward: str) -> Values:
    """Returns the metrics of a run on each prompt, none if nothing was sampled.

    Arguments:
        folder: The run's folder.
        measured: The measurements on its prompts.
        reward: The scorer whose reward is the gain.
    """
    if not measured:
        return {}
    deviation = read_json(folder / METRICS).get(f"base_{reward}_sd")
    if deviation is None:
        raise ValueError(f"--reward {reward}: {folder} was not scored by it")

    def values(side: str, name: str) -> Tensor:
        return torch.tensor(measured[side][name], dtype=torch.float64)

    def gain(name: str, unit: float) -> Tensor:
        return (values("policy", name) - values("reference", name)) / unit

    js = torch.tensor(measured["js"], dtype=torch.float64)
    zero = torch.zeros_like(js)
    has_vader = "reward/vader" in measured["policy"]
    return ({"vader": (gain("reward/vader", 1.0), zero)} if has_vader else {}) | {
        "gain": (gain(f"reward/{reward}", deviation), zero),
        "kl": (values("policy", "kl"), zero),
        "js": (js, zero),
        "entropy": (values("policy", "entropy"), values("reference", "entropy")),
        "distinct_2": (values("policy", "distinct_2"), values("reference", "distinct_2")),
    }


def pair_metrics(prompts: Sequence[int], pair_margins: Sequence[float]) -> Values:
    """Returns the metrics of held-out pairs, means over those of each prompt.

    Arguments:
        prompts: The number of each pair's prompt, from 0.
        pair_margins: The margin of each pair.
    """
    margins, index = torch.tensor(pair_margins, dtype=torch.float64), torch.tensor(prompts)
    zero, count = torch.zeros_like(margins), len(index.unique())

    def by_prompt(values: Tensor) -> Tensor:
        sums = values.new_zeros(count, *values.shape[1:]).index_add_(0, index, values)
        return sums / index.bincount().view(-1, *[1] * (values.ndim - 1))

    metrics: dict[str, Callable[[Tensor], Tensor]] = {
        "nll": lambda m: by_prompt(-logsigmoid(m)),
        "accuracy": lambda m: by_prompt(right(m)),
        "overconfidence": lambda m: by_prompt(m.abs().sigmoid() - right(m)),
        MOMENTS: lambda m: calibration_moments(m, by_prompt),
    }
    return {name: (metric(margins), metric(zero)) for name, metric in metrics.items()}
