"""A sweep whose curves are known, and its results."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

PROMPTS, SAMPLES = 60, 2
BETAS = (0.1, 1.0)
GAINS = {"sigmoid": 0.4, "jsd": 0.6, "fkl": 0.4, "ipo": 0.4}
"""The reward of each method at a nat, in standard deviations; it grows with the root."""

Results = dict[str, Any]


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_run_folder(
    folder: Path,
    options: dict[str, Any],
    samples: list[dict[str, Any]],
    pairs: list[dict[str, Any]],
    tails: list[float],
    deviation: float,
) -> None:
    """Writes the files of a finished run that the experiments read."""
    folder.mkdir(parents=True)
    write_jsonl(folder / "samples.jsonl", samples)
    write_jsonl(folder / "held_out_pairs.jsonl", pairs)
    log = [{"step": step, "tail_fraction": tail} for step, tail in enumerate(tails, 1)]
    write_jsonl(folder / "log.jsonl", log)
    (folder / "run.json").write_text(json.dumps({"options": options, "git_commit": "abc"}))
    (folder / "metrics.json").write_text(json.dumps({"base_imdb-sentiment_sd": deviation}))


def write_run(folder: Path, method: str, beta: float, seed: int) -> None:
    """Writes a run: 12 nats at beta 0.1 and 4 at 1 (ipo: a quarter of them)."""
    generator = torch.Generator().manual_seed(1000 * seed + int(10 * beta))
    kl = (1.2 / beta if beta < 1 else 4.0) * (0.25 if method == "ipo" else 1.0)
    gain = GAINS[method] * math.sqrt(kl)
    rows = []
    for prompt in range(PROMPTS):
        for sample in range(SAMPLES):
            noise = 0.2 * torch.randn((), generator=generator).item()
            text = f"a {prompt} b {sample} c" if prompt else "a"  # has no pair of words
            common = {"opening": prompt, "sample": sample, "prompt": f"p{prompt}", "entropy": 3.0}
            rows.append(
                common | {"model": "reference", "completion": text, "log_ratio": -0.5, "kl": 0.5,
                          "reward/imdb-sentiment": 1.0, "reward/vader": 0.0}
            )  # fmt: skip
            rows.append(
                common | {"model": "policy", "completion": text, "log_ratio": kl + noise, "kl": kl,
                          "entropy": 3.0 - gain, "reward/vader": 0.1,
                          "reward/imdb-sentiment": 1.0 + 2 * (gain + noise)}
            )  # fmt: skip
    pairs = [{"prompt": f"q{i}", "margin": 1.0 if i % 4 else -1.0} for i in range(40)]
    options = {"loss": method, "alpha": None, "beta": beta, "seed": seed, "learning_rate": 1e-4,
               "model_name_or_path": "/one/checkout/pretrained/imdb-gpt2"}  # fmt: skip
    write_run_folder(folder, options, rows, pairs, tails=[0.1, 0.2, 0.3], deviation=2.0)


def call(main: Callable[[], None], *options: object) -> None:
    """Calls a program's main function with a command line."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["program", *map(str, options)])
        main()


def text_results(root: Path, *options: object) -> Results:
    """Returns the results of a sweep by the names of their files."""
    from experiments import text

    call(text.main, "--sweep", root, "--output", root / "text", "--draws", 400, *options)
    names = ("curves", "questions", "calibration", "samples")
    return {name: json.loads((root / f"text_{name}.json").read_text()) for name in names}


def comparison(results: Results, question: str, method: str) -> dict[str, Any]:
    """Returns the comparison of a method that belongs to no claim."""
    [row] = [
        row
        for row in results["questions"]["rows"]
        if row["question"] == question and row["method"] == method and not row["claim"]
    ]
    return row


@pytest.fixture(scope="session")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sweep")
    for method in GAINS:
        for beta in BETAS:
            for seed in (0, 1) if (method, beta) != ("fkl", 0.1) else (0,):
                write_run(root / f"runs/{method}-{beta}-{seed}", method, beta, seed)
    log = root / "logs/jsd-1.0-1.1.txt"
    log.parent.mkdir()
    log.write_text("2026-11-26T00:00:00+00:00 command\n")
    os.utime(log, (1795651265.5,) * 2)  # a minute after
    os.utime(root / "runs/jsd-1.0-1/metrics.json", (1795651265.5,) * 2)
    (root / "learning_rates.json").write_text(
        '{"jsd": {"learning_rate": 1e-4, "runs": ["a"], "trials": []}}'
    )
    return root


@pytest.fixture(scope="session")
def results(sweep: Path) -> Results:
    return text_results(sweep)
