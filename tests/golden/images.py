"""Cases of the programs for images of digits."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from PIL import Image

from tests.golden.workplace import ROOT, Workplace

DDPM, FLOW = ROOT / "pretrained/mnist-ddpm", ROOT / "pretrained/mnist-flow"
SMALL = (
    "--data", "digits", "--train_batch_size", 8, "--logging_steps", 1, "--lr_warmup_steps", 0,
    "--learning_rate", 5e-5, "--use_cpu",
)  # fmt: skip
SAMPLED = ("--max_train_steps", 3, "--eval_samples", 32, "--sampling_steps", 8)
SHORT = ("--max_train_steps", 2, "--eval_samples", 0)
RUNS: dict[str, tuple[object, ...]] = {
    "ddpm": ("--model", DDPM, "--loss", "jsd", *SAMPLED, "--validation_steps", 2),
    "flow": (
        "--model", FLOW, "--loss", "alpha", "--alpha", 0.5, "--target", 7, *SAMPLED,
        "--flow_times", "logit_normal", "--timesteps_per_pair", 2,
    ),
    "lora": ("--model", DDPM, "--loss", "fkl", "--rank", 2, "--method", "dpo", *SHORT),
    "true_weight": (
        "--model", DDPM, "--loss", "jeffreys", "--true_weight", "--match_curvature", *SHORT,
        "--repeat_draws", 1, "--gradient_accumulation_steps", 2,
    ),
    "negative_sft": ("--model", FLOW, "--method", "negative_sft", *SHORT),
}  # fmt: skip


def train(work: Workplace, name: str) -> str:
    """Trains one of the runs and returns its folder."""
    work.run("image_train", *RUNS[name], *SMALL, "--output_dir", f"image-{name}")
    return f"image-{name}"


def trained(work: Workplace) -> str:
    """Trains the model that several cases look at."""
    return train(work, "ddpm")


def run_folder(work: Workplace, folder: str) -> dict[str, Any]:
    """Reads the contents of a run folder."""
    return {
        "metrics": work.json(f"{folder}/metrics.json"),
        "log": work.rows(f"{folder}/log.jsonl"),
        "options": work.json(f"{folder}/run.json")["options"],
        "files": work.names(folder),
        "weights": work.weights(f"{folder}/diffusion_pytorch_model.safetensors"),
    }


def image_train(work: Workplace) -> Any:
    """Trains diffusion and flow models in each manner."""
    folders = {"ddpm": work.once("image", trained)}
    folders |= {name: train(work, name) for name in RUNS if name not in folders}
    return {name: run_folder(work, folder) for name, folder in folders.items()}


def image_evaluate(work: Workplace) -> Any:
    """Compares a trained model with its reference."""
    folder = work.once("image", trained)
    work.run(
        "image_evaluate", "--model", folder, "--target", 3, "--eval_samples", 40,
        "--sampling_steps", 4, "--output_dir", "image-evaluation",
    )  # fmt: skip
    values = work.json("image-evaluation/metrics.json")
    return {"metrics": values, "files": work.names("image-evaluation")}


def image_sample(work: Workplace) -> Any:
    """Draws samples of both models: the shares of the digits and the sheets."""
    seen = {}
    for name, model in (("ddpm", DDPM), ("flow", FLOW)):
        printed = work.run(
            "image_sample", "--model", model, "--samples", 12, "--columns", 4, "--seed", 5,
            "--sampling_steps", 4, "--output", f"{name}.png",
        )  # fmt: skip
        shares = re.findall(r"^ *(\d|none) +([\d.]+) ± ([\d.]+)$", printed, re.MULTILINE)
        sheet = pixels(work, f"{name}.png")
        seen[name] = {"shares": {digit: numbers for digit, *numbers in shares}, **sheet}
    return seen


def pixels(work: Workplace, path: str) -> dict[str, Any]:
    """Returns the size of a PNG file, and the mean of each of its rows of pixels by tens."""
    values = np.asarray(Image.open(work.folder / path), dtype=float) / 255
    means = [values[start : start + 10].mean().item() for start in range(0, len(values), 10)]
    return {"size": list(values.shape), "rows": means}
