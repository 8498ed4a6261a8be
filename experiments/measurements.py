"""Measurements of a text run on each prompt and each held-out pair."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fdpo import estimators, get_divergence, runs
from fdpo.cli.learning_rates import mean_metric
from fdpo.estimators import diversity
from fdpo.runs.rows import read_rows

MEASURED = "measured.json"
"""The file in a run folder with the measurements."""
MEANS = ("kl", "entropy")
"""Metrics of samples, besides rewards, that are averaged over a prompt."""
SHOWN = 3
"""Prompts whose first completions are saved."""


def measurements(folder: Path) -> dict[str, Any]:
    """Returns the measurements of a run on each prompt and pair.

    They are computed from the run's samples and pairs once and saved in the folder as
    ``measured.json``, the only part of them that a repository holds (``experiments.archive``).

    Returns:
        ``fingerprint``, equal for runs that were measured on the same prompts and pairs;
        ``tail_fraction``, the share of completions on the straight tail in the second half of
        training; ``prompts`` (:func:`measure_prompts`), empty if nothing was sampled; ``pairs``,
        the number of each pair's prompt and its margin. Missing values are NaN.
    """
    path = folder / MEASURED
    if not path.exists():
        runs.write_json(path, to_json(measure(folder)))
    return from_json(runs.read_json(path))


def measure(folder: Path) -> dict[str, Any]:
    """Computes the measurements of a run from its samples, its pairs and its log."""
    file = folder / "samples.jsonl"
    samples = read_rows(file) if file.exists() else []
    pairs = read_rows(folder / "held_out_pairs.jsonl")
    prompts = [row["prompt"] for row in samples + pairs]
    numbers: dict[str, int] = {}
    return {
        "fingerprint": hashlib.blake2b(json.dumps(prompts).encode(), digest_size=8).hexdigest(),
        "tail_fraction": mean_metric(folder / "log.jsonl", "tail_fraction"),
        "prompts": measure_prompts(samples) if samples else {},
        "pairs": {
            "prompt": [numbers.setdefault(row["prompt"], len(numbers)) for row in pairs],
            "margin": [row["margin"] for row in pairs],
        },
    }


def measure_prompts(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Returns the metrics of each prompt, and the first completions of some.

    ``policy`` and ``reference`` hold lists by metric, means over a prompt's samples; ``js`` is the
    divergence of both; ``shown`` holds the first completion of three prompts.
    """
    sides = {model: [r for r in rows if r["model"] == model] for model in ("policy", "reference")}
    count = 1 + max(row["opening"] for row in rows)
    names = (*(name for name in rows[0] if name.startswith("reward/")), *MEANS)

    def values(side: str, name: str) -> Tensor:
        return torch.tensor([r[name] for r in sides[side]], dtype=torch.float64).view(count, -1)

    log_ratios = (values(side, "log_ratio")[:, None] for side in ("policy", "reference"))
    js = get_divergence("js")
    shown = [row for row in rows if row["sample"] == 0 and row["opening"] < SHOWN]
    return {
        **{
            side: {
                **{name: values(side, name).mean(dim=1).tolist() for name in names},
                "distinct_2": distinct_bigrams(side_rows, count),
            }
            for side, side_rows in sides.items()
        },
        "js": [estimators.divergence(js, *one).value for one in zip(*log_ratios, strict=True)],
        "shown": [{name: row[name] for name in ("model", "prompt", "completion")} for row in shown],
    }


def distinct_bigrams(rows: Sequence[Mapping[str, Any]], count: int) -> list[float]:
    """Returns distinct-2 among the samples of each prompt; NaN without a bigram."""
    texts: list[list[str]] = [[] for _ in range(count)]
    for row in rows:
        texts[row["opening"]].append(row["completion"])
    return [diversity.distinct_n([samples]).value for samples in texts]


def to_json(value: Any) -> Any:
    """Returns a value with None for NaN, which JSON lacks, and numbers of six digits."""
    if isinstance(value, dict):
        return {name: to_json(item) for name, item in value.items()}
    if isinstance(value, list):
        return [to_json(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value


def from_json(value: Any) -> Any:
    """Returns a value of :func:`to_json` with NaN for None."""
    if isinstance(value, dict):
        return {name: from_json(item) for name, item in value.items()}
    if isinstance(value, list):
        return [from_json(item) for item in value]
    return math.nan if value is None else value
