"""What the runs of a text sweep measured, opening by opening and pair by pair."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, one_hot

from fdpo import diversity, estimators, get_divergence, runs
from fdpo.calibration import right
from fdpo.losses import resolve_loss
from fdpo.plotting import loss_of, method_of
from fdpo.rows import read_rows

BINS = 8
MOMENTS = "calibration_moments"
OF_PROBABILITIES = ("nll", "overconfidence", "calibration_error")
"""Figures that take the logistic function of a margin for the policy's probability."""


def says_probability(method: str) -> bool:
    """Returns whether a method's margins are fitted as log-odds, as IPO's and hinge's are not."""
    return resolve_loss(*loss_of(method))[1] == "logistic"


@dataclass(frozen=True)
class Run:
    """A finished cell: a method at a strength with a seed."""

    folder: Path
    method: str
    beta: float
    seed: int

    @staticmethod
    def of(folder: Path) -> Run:
        """Reads what a run folder says of itself."""
        options = runs.read_json(folder / runs.RECORD)["options"]
        method = method_of(options["loss"], options["alpha"])
        return Run(folder, method, options["beta"], options["seed"])


@dataclass(frozen=True)
class Measured:
    """Figures of every run, one for each opening or pair: NaN where a run is missing.

    Arguments:
        methods: The names along the second dimension.
        betas: Those along the fourth, after the reference, which is the first point of a curve.
        seeds: Those along the third.
        figures: Name -> values with shape (P, M, S, 1 + K); ``kl`` is the distance.
        missing: The runs that are not there; curves and answers go without their methods.
    """

    methods: list[str]
    betas: list[float]
    seeds: list[int]
    figures: dict[str, Tensor]
    missing: list[tuple[str, float, int]]

    def why_not(self, method: str, figure: str) -> str:
        """Says why a method is left out for a figure; "" if it is not."""
        if figure in OF_PROBABILITIES and not says_probability(method):
            return "no probability"
        return "run missing" if any(run[0] == method for run in self.missing) else ""


def finished(sweep: str) -> list[Run]:
    """Returns the finished cells of a sweep; raises ``ValueError`` if there is none."""
    folders = sorted(path.parent for path in Path(sweep).glob(f"cells/*/{runs.METRICS}"))
    if not folders:
        raise ValueError(f"--sweep {sweep}: no finished cell there")
    return [Run.of(folder) for folder in folders]


def commits_of(cells: Sequence[Run]) -> list[str]:
    """Returns the commits that runs were made with."""
    return sorted({runs.read_json(run.folder / runs.RECORD)["git_commit"] for run in cells})


def measured(cells: Sequence[Run], reward: str) -> Measured:
    """Reads what each run measured on each opening and pair.

    Raises:
        ValueError: If two runs are of one method, strength and seed, or what they were measured on
            differs.
    """
    methods = list(dict.fromkeys(run.method for run in cells))
    betas = sorted({run.beta for run in cells})
    seeds = sorted({run.seed for run in cells})
    figures: dict[str, Tensor] = {}
    first = prompts_of(cells[0].folder)
    taken: dict[tuple[str, float, int], Path] = {}
    for run in cells:
        key = run.method, run.beta, run.seed
        if key in taken:
            raise ValueError(
                f"{run.folder} and {taken[key]} are both of {run.method}, beta {run.beta:g}, seed "
                f"{run.seed}: a sweep's results need one run of each"
            )
        taken[key] = run.folder
        if prompts_of(run.folder) != first:
            raise ValueError(f"{run.folder}: measured on other openings or pairs than others")
        own = openings(run.folder, reward) | pairs(run.folder)
        place = methods.index(run.method), seeds.index(run.seed), 1 + betas.index(run.beta)
        for name, (values, base) in own.items():
            if name not in figures:
                shape = (len(values), len(methods), len(seeds), 1 + len(betas), *values.shape[1:])
                figures[name] = torch.full(shape, math.nan, dtype=torch.float64)
                figures[name][:, :, :, 0] = base[:, None, None]
            figures[name][:, *place] = values
    every = ((m, b, s) for m in methods for b in betas for s in seeds)
    missing = [run for run in every if run not in taken]
    return Measured(methods, betas, seeds, figures, missing)


def prompts_of(folder: Path) -> list[str]:
    """Returns the prompts of a run's samples and held-out pairs, in their order."""
    files = (folder / name for name in ("samples.jsonl", "held_out_pairs.jsonl"))
    return [row["prompt"] for file in files if file.exists() for row in read_rows(file)]


def openings(folder: Path, reward: str) -> dict[str, tuple[Tensor, Tensor]]:
    """Returns what a run measured on each opening, if any: of policy, and of the reference."""
    if not (folder / "samples.jsonl").exists():
        return {}
    rows = read_rows(folder / "samples.jsonl")
    deviation = runs.read_json(folder / runs.METRICS).get(f"base_{reward}_sd")
    if deviation is None:
        raise ValueError(f"--reward {reward}: {folder} was not scored by it")
    sides = {model: [r for r in rows if r["model"] == model] for model in ("policy", "reference")}
    count = 1 + max(row["opening"] for row in rows)

    def of(side: str, name: str) -> Tensor:
        return torch.tensor([r[name] for r in sides[side]], dtype=torch.float64).view(count, -1)

    def mean(side: str, name: str) -> Tensor:
        return of(side, name).mean(dim=1)

    def distinct(side: str) -> Tensor:
        texts: list[list[str]] = [[] for _ in range(count)]
        for row in sides[side]:
            texts[row["opening"]].append(row["completion"])
        found = [diversity.distinct_n([samples]).value for samples in texts]
        return torch.tensor(found, dtype=torch.float64)

    def gain(name: str, unit: float) -> Tensor:
        return (mean("policy", name) - mean("reference", name)) / unit

    ratios, nothing = of("policy", "log_ratio"), torch.zeros(count, dtype=torch.float64)
    both = zip(ratios[:, None], of("reference", "log_ratio")[:, None], strict=True)
    js = [estimators.divergence(get_divergence("js"), *one).value for one in both]
    vader = {"vader": (gain("reward/vader", 1.0), nothing)} if "reward/vader" in rows[0] else {}
    return vader | {
        "gain": (gain(f"reward/{reward}", deviation), nothing),
        "kl": (mean("policy", "kl"), nothing),
        "js": (torch.tensor(js, dtype=torch.float64), nothing),
        "entropy": (mean("policy", "entropy"), mean("reference", "entropy")),
        "distinct_2": (distinct("policy"), distinct("reference")),
    }


def pairs(folder: Path) -> dict[str, tuple[Tensor, Tensor]]:
    """Returns what a run says of held-out pairs, means over those of each prompt.

    ``MOMENTS`` are those of :func:`moments_of`.
    """
    rows = read_rows(folder / "held_out_pairs.jsonl")
    margins = torch.tensor([row["margin"] for row in rows], dtype=torch.float64)
    none = torch.zeros_like(margins)
    numbers: dict[str, int] = {}
    index = torch.tensor([numbers.setdefault(row["prompt"], len(numbers)) for row in rows])

    def by_prompt(values: Tensor) -> Tensor:
        sums = values.new_zeros(len(numbers), *values.shape[1:]).index_add_(0, index, values)
        return sums / index.bincount().view(-1, *[1] * (values.ndim - 1))

    def both(figure: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        return figure(margins), figure(none)

    return {
        "nll": both(lambda m: by_prompt(-logsigmoid(m))),
        "accuracy": both(lambda m: by_prompt(right(m))),
        "overconfidence": both(lambda m: by_prompt(m.abs().sigmoid() - right(m))),
        MOMENTS: both(lambda m: moments_of(m, by_prompt)),
    }


def moments_of(margins: Tensor, by_prompt: Callable[[Tensor], Tensor]) -> Tensor:
    """Returns what the calibration error is made of, for each prompt: shape (P, 5, BINS).

    For each bin of probability: the share n of the prompt's pairs in it, their residual r (what is
    right less the probability), and n², n r and r².

    Arguments:
        margins: The margins of pairs, with shape (N).
        by_prompt: Averages over the pairs of each prompt: shape (N, *) to (P, *).
    """
    inside = one_hot(bin_of(margins), BINS).double()
    residual = right(margins) - margins.abs().sigmoid()
    n, r = by_prompt(inside), by_prompt(inside * residual[:, None])
    return torch.stack([n, r, n * n, n * r, r * r], dim=1)


def bin_of(margins: Tensor) -> Tensor:
    """Returns the bin of the probability of the side that is preferred, from one half to 1."""
    return ((margins.abs().sigmoid() - 0.5) * 2 * BINS).long().clamp(max=BINS - 1)
