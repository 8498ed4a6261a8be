"""Cases of the programs that train the embedded models, on a slice of the real data."""

from __future__ import annotations

import gzip
import json
from itertools import islice
from pathlib import Path
from typing import Any

from tests.golden.workplace import ROOT, Workplace, write_jsonl

REVIEWS, HELD_OUT = 1000, 720
LETTERS = 400
"""Of each review, so that its metrics take little time."""
DIGITS = {"train": 400, "t10k": 300}
"""Images of each split."""
SHORT = ("--max_steps", 3, "--logging_steps", 1, "--report_to", "none", "--use_cpu")
WEIGHTS = ("model.safetensors", "diffusion_pytorch_model.safetensors")


def real_data(work: Workplace) -> Path:
    """Returns the folder of real data.

    Raises:
        RuntimeError: If there is none.
    """
    if work.data is None:
        raise RuntimeError("there is no real data: set FDPO_DATA to its folder")
    return work.data


def reviews(work: Workplace) -> Path:
    """Writes the beginning of each twentieth review."""
    path = work.folder / "reviews.jsonl"
    with gzip.open(real_data(work) / "imdb/train_20k.jsonl.gz", "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in islice(file, 0, 20 * REVIEWS, 20)]
    write_jsonl(path, [{**row, "text": row["text"][:LETTERS]} for row in rows])
    return path


def digits(work: Workplace) -> Path:
    """Writes the first images of MNIST as files of the same format."""
    folder = work.folder / "mnist"
    folder.mkdir()
    for split, count in DIGITS.items():
        for name, header, size in (("images-idx3", 16, 28 * 28), ("labels-idx1", 8, 1)):
            file = f"{split}-{name}-ubyte.gz"
            content = gzip.decompress((real_data(work) / "mnist" / file).read_bytes())
            shown = content[:4] + count.to_bytes(4, "big") + content[8 : header + count * size]
            (folder / file).write_bytes(gzip.compress(shown))
    return folder


def of_text(work: Workplace) -> None:
    """Trains a language model and a scorer."""
    texts = work.once("reviews", reviews)
    args = ("--dataset", texts, "--held_out", HELD_OUT, "--vocab_size", 400, "--layers", 1, *SHORT)
    work.run(
        "sft", *args, "--width", 16, "--heads", 2, "--context", 64, "--learning_rate", 1e-2,
        "--per_device_train_batch_size", 4, "--output_dir", "sft",
    )  # fmt: skip
    work.run(
        "train_scorer", *args, "--width", 32, "--warmup_steps", 1,
        "--per_device_train_batch_size", 8, "--output_dir", "scorer",
    )  # fmt: skip


def of_images(work: Workplace) -> None:
    """Trains a classifier and a DDPM."""
    data = work.once("digits", digits)
    start = ROOT / "pretrained/mnist-ddpm"
    work.run(
        "pretrain", "--model", "classifier", "--data_root", data, "--max_train_steps", 40,
        "--train_batch_size", 32, "--learning_rate", 3e-3, "--use_cpu", "--output_dir",
        "classifier",
    )  # fmt: skip
    work.run(
        "pretrain", "--model", "ddpm", "--data_root", data, "--max_train_steps", 4, "--init", start,
        "--train_batch_size", 16, "--samples", 32, "--use_cpu", "--output_dir", "ddpm",
    )  # fmt: skip


def pretrain(work: Workplace) -> Any:
    """Trains each kind of model for a few steps."""
    of_text(work)
    of_images(work)
    names = ("sft", "scorer", "classifier", "ddpm")
    return {name: trained(work, name) for name in names}


def trained(work: Workplace, folder: str) -> dict[str, Any]:
    """Reads the contents of a run folder."""
    (weights,) = (name for name in work.names(folder) if name in WEIGHTS)
    return {
        "metrics": work.json(f"{folder}/metrics.json"),
        "files": work.names(folder),
        "weights": work.weights(f"{folder}/{weights}"),
    }
