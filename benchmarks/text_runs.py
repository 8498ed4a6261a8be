"""What the runs of a text sweep measured, opening by opening and pair by pair."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, one_hot

from fdpo import estimators, get_divergence, runs
from fdpo.cli.learning_rates import mean_figure
from fdpo.estimators import diversity
from fdpo.estimators.calibration import right
from fdpo.losses.names import resolve_loss
from fdpo.plotting import method_name, parse_method
from fdpo.runs.rows import read_rows

MEASURED = "measured.json"
"""The file in a run folder with what was measured on each opening and pair."""
MEANS = ("kl", "entropy")
"""Figures of samples, besides rewards, that are averaged over an opening."""
SHOWN = 3
"""Openings whose first completions are kept."""
BINS = 8
MOMENTS = "calibration_moments"
OF_PROBABILITIES = ("nll", "overconfidence", "calibration_error")
"""Figures that take the logistic function of a margin for the policy's probability."""


def says_probability(method: str) -> bool:
    """Returns whether a method's margins are fitted as log-odds, as IPO's and hinge's are not."""
    return resolve_loss(*parse_method(method))[1] == "logistic"


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
        method = method_name(options["loss"], options["alpha"])
        return Run(folder, method, options["beta"], options["seed"])


@dataclass(frozen=True)
class Measured:
    """Figures of every run, one for each opening or pair: NaN where there is no run.

    Arguments:
        methods: The names along the second dimension.
        betas: Those along the fourth, after the reference, which is the first point of a curve.
        seeds: Those along the third.
        figures: Name -> values with shape (P, M, S, 1 + K); ``kl`` is the distance.
        missing: Runs that are not there, of strengths that their method has with another seed;
            curves and answers go without their methods.
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


def finished(sweep: str, betas: Sequence[float] = ()) -> list[Run]:
    """Returns the finished cells of a sweep, those of these strengths if any are given.

    Raises:
        ValueError: If there is none.
    """
    folders = sorted(path.parent for path in Path(sweep).glob(f"cells/*/{runs.METRICS}"))
    found = [Run.of(folder) for folder in folders]
    if not (found := [run for run in found if not betas or run.beta in betas]):
        raise ValueError(
            f"--sweep {sweep}: no finished cell there{' at --betas' if folders else ''}"
        )
    return found


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
    first = measurements(cells[0].folder)["prompts"]
    taken: dict[tuple[str, float, int], Path] = {}
    for run in cells:
        key = run.method, run.beta, run.seed
        if key in taken:
            raise ValueError(
                f"{run.folder} and {taken[key]} are both of {run.method}, beta {run.beta:g}, seed "
                f"{run.seed}: a sweep's results need one run of each"
            )
        taken[key] = run.folder
        here = measurements(run.folder)
        if here["prompts"] != first:
            raise ValueError(f"{run.folder}: measured on other openings or pairs than others")
        held_out = of_pairs(here["pairs"]["prompt"], here["pairs"]["margin"])
        own = openings(run.folder, here["openings"], reward) | held_out
        place = methods.index(run.method), seeds.index(run.seed), 1 + betas.index(run.beta)
        for name, (values, base) in own.items():
            if name not in figures:
                shape = (len(values), len(methods), len(seeds), 1 + len(betas), *values.shape[1:])
                figures[name] = torch.full(shape, math.nan, dtype=torch.float64)
                figures[name][:, :, :, 0] = base[:, None, None]
            figures[name][:, *place] = values
    strengths = dict.fromkeys((run.method, run.beta) for run in cells)
    missing = [(m, b, s) for m, b in strengths for s in seeds if (m, b, s) not in taken]
    return Measured(methods, betas, seeds, figures, missing)


def measurements(folder: Path) -> dict[str, Any]:
    """Returns what a run measured on each opening and pair.

    It is read from the run's samples and pairs once and kept in the folder as ``measured.json``,
    which is all that remains of them in a repository (``kept_cells.py``).

    Returns:
        ``prompts``, equal for runs that were measured on the same openings and pairs;
        ``tail_fraction``, the share of completions on the straight tail in the second half of
        training; ``openings`` (:func:`of_openings`), empty if nothing was sampled; ``pairs``, the
        number of each pair's prompt and its margin. What could not be measured is NaN.
    """
    path = folder / MEASURED
    if not path.exists():
        samples = folder / "samples.jsonl"
        drawn = read_rows(samples) if samples.exists() else []
        held_out = read_rows(folder / "held_out_pairs.jsonl")
        prompts = [row["prompt"] for row in drawn + held_out]
        numbers: dict[str, int] = {}
        found = {
            "prompts": hashlib.blake2b(json.dumps(prompts).encode(), digest_size=8).hexdigest(),
            "tail_fraction": mean_figure(folder / "log.jsonl", "tail_fraction"),
            "openings": of_openings(drawn) if drawn else {},
            "pairs": {
                "prompt": [numbers.setdefault(row["prompt"], len(numbers)) for row in held_out],
                "margin": [row["margin"] for row in held_out],
            },
        }
        runs.write_json(path, plain(found))
    return unplain(runs.read_json(path))


def of_openings(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Returns figures of each opening, and the first completions of some.

    ``policy`` and ``reference`` hold lists by the name of the figure, means over an opening's
    samples, ``js`` the divergence of both, ``shown`` the first completion of three openings.
    """
    sides = {model: [r for r in rows if r["model"] == model] for model in ("policy", "reference")}
    count = 1 + max(row["opening"] for row in rows)
    rewards = [name for name in rows[0] if name.startswith("reward/")]

    def of(side: str, name: str) -> Tensor:
        return torch.tensor([r[name] for r in sides[side]], dtype=torch.float64).view(count, -1)

    def distinct(side: str) -> list[float]:
        texts: list[list[str]] = [[] for _ in range(count)]
        for row in sides[side]:
            texts[row["opening"]].append(row["completion"])
        return [diversity.distinct_n([samples]).value for samples in texts]

    both = zip(
        of("policy", "log_ratio")[:, None], of("reference", "log_ratio")[:, None], strict=True
    )
    shown = [row for row in rows if row["sample"] == 0 and row["opening"] < SHOWN]
    return {
        **{
            side: {
                **{name: of(side, name).mean(dim=1).tolist() for name in (*rewards, *MEANS)},
                "distinct_2": distinct(side),
            }
            for side in sides
        },
        "js": [estimators.divergence(get_divergence("js"), *one).value for one in both],
        "shown": [{name: row[name] for name in ("model", "prompt", "completion")} for row in shown],
    }


def openings(
    folder: Path, found: Mapping[str, Any], reward: str
) -> dict[str, tuple[Tensor, Tensor]]:
    """Returns what a run measured on each opening, if any: of policy, and of the reference.

    Arguments:
        folder: The run's folder.
        found: What :func:`of_openings` found in it.
        reward: The scorer that decides.
    """
    if not found:
        return {}
    deviation = runs.read_json(folder / runs.METRICS).get(f"base_{reward}_sd")
    if deviation is None:
        raise ValueError(f"--reward {reward}: {folder} was not scored by it")

    def of(side: str, name: str) -> Tensor:
        return torch.tensor(found[side][name], dtype=torch.float64)

    def gain(name: str, unit: float) -> Tensor:
        return (of("policy", name) - of("reference", name)) / unit

    js = torch.tensor(found["js"], dtype=torch.float64)
    nothing = torch.zeros_like(js)
    vader = "reward/vader" in found["policy"]
    return ({"vader": (gain("reward/vader", 1.0), nothing)} if vader else {}) | {
        "gain": (gain(f"reward/{reward}", deviation), nothing),
        "kl": (of("policy", "kl"), nothing),
        "js": (js, nothing),
        "entropy": (of("policy", "entropy"), of("reference", "entropy")),
        "distinct_2": (of("policy", "distinct_2"), of("reference", "distinct_2")),
    }


def of_pairs(
    numbers: Sequence[int], margins_of: Sequence[float]
) -> dict[str, tuple[Tensor, Tensor]]:
    """Returns what a run says of held-out pairs, means over those of each prompt.

    ``MOMENTS`` are those of :func:`moments_of`.

    Arguments:
        numbers: The number of each pair's prompt, from 0.
        margins_of: The margin of each pair.
    """
    margins, index = torch.tensor(margins_of, dtype=torch.float64), torch.tensor(numbers)
    none, prompts = torch.zeros_like(margins), len(index.unique())

    def by_prompt(values: Tensor) -> Tensor:
        sums = values.new_zeros(prompts, *values.shape[1:]).index_add_(0, index, values)
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


def plain(value: Any) -> Any:
    """Returns a value in which NaN is None, as JSON has it, and numbers have six digits."""
    if isinstance(value, dict):
        return {name: plain(one) for name, one in value.items()}
    if isinstance(value, list):
        return [plain(one) for one in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value


def unplain(value: Any) -> Any:
    """Returns a value that :func:`plain` made, with NaN again."""
    if isinstance(value, dict):
        return {name: unplain(one) for name, one in value.items()}
    if isinstance(value, list):
        return [unplain(one) for one in value]
    return math.nan if value is None else value
