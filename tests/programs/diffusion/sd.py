"""Runs of the Stable Diffusion programs in tests: options, metrics, logs, images."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

Pipelines = Callable[..., str]
Run = Callable[..., None]

TRAIN = {
    "dataset": "pairs", "use_cpu": True, "max_train_steps": 2, "train_batch_size": 2,
    "gradient_accumulation_steps": 1, "learning_rate": 1e-3, "scale_lr": False,
    "lr_warmup_steps": 0, "num_inference_steps": 2, "num_validation_images": 0, "kappa": 100,
    "logging_steps": 1, "output_dir": "out",
}  # fmt: skip


def train(run: Run, model: str, **options: Any) -> None:
    run("diffusion/train_sd.py", TRAIN, pretrained_model_name_or_path=model, **options)


def read_metrics(folder: str = "out") -> dict[str, float]:
    return json.loads(Path(folder, "metrics.json").read_text())


def read_log(folder: str) -> list[dict[str, float]]:
    return [json.loads(line) for line in Path(folder, "log.jsonl").open()]


def same_image(image: Image.Image, path: Path) -> bool:
    gap = np.abs(np.asarray(image, dtype=int) - np.asarray(Image.open(path), dtype=int))
    return int(gap.max()) <= 1
