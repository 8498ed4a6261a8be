"""Makes everything that results.ipynb shows: sweeps, their tables and answers, the notebook.

    python benchmarks/results.py                      # hours; it goes on where it was stopped
    python benchmarks/results.py --quick              # minutes: the same on a small scale
    python benchmarks/results.py --parts text tabular

Parts: ``text`` (the sweep on IMDb), ``slic_hf`` (slic-hf's losses at its beta), ``completions``
(scored completions of another model, given by ``--completions``), ``images`` (sweeps of the DDPM
and the flow model), ``tabular`` (the world that is known exactly), ``notebook``.

What the cells of the text sweep measured is kept in OUTPUT/text_cells, and their pairs in
OUTPUT/text_pairs: these cells are not run again. Another ``--output`` and ``--runs`` begin anew.
"""

from __future__ import annotations

import base64
import io
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from programs import ROOT

from fdpo import runs
from fdpo.cli import arguments
from fdpo.runs import rows

PARTS = ("text", "slic_hf", "completions", "images", "tabular", "notebook")
CONFIGS = ROOT / "fdpo/programs/configs/train_dpo"
NOTEBOOK = "results.ipynb"


@dataclass
class Arguments:
    """Results."""

    parts: list[str] = field(
        default_factory=lambda: list(PARTS), metadata={"help": "what to make; default: all"}
    )
    quick: bool = field(default=False, metadata={"help": "a small version, in a folder of its own"})
    completions: str | None = field(
        default=None, metadata={"help": "file of scored completions; without it that part is left"}
    )
    jobs: int = field(default=2, metadata={"help": "cells of a sweep at a time"})
    runs: str | None = field(
        default=None, metadata={"help": "folder of the runs; default: runs, or runs/quick"}
    )
    output: str | None = field(
        default=None, metadata={"help": "folder of the results; default: results, or RUNS/results"}
    )

    def __post_init__(self) -> None:
        if unknown := set(self.parts) - set(PARTS):
            raise ValueError(f"--parts {unknown.pop()}: there is {', '.join(PARTS)}")
        self.runs = self.runs or ("runs/quick" if self.quick else "runs")
        self.output = self.output or (f"{self.runs}/results" if self.quick else "results")


FAILED: list[str] = []
"""Sweeps of which cells failed; results are made of the others."""


def call(program: str, *options: object) -> None:
    """Runs a program of the repository and shows what it prints.

    Its failure ends this one, but for a sweep of which only cells failed (status 1).
    """
    command = [sys.executable, str(ROOT / program), *map(str, options)]
    print("$ python", program, *options, flush=True)
    threads = {"OMP_NUM_THREADS": "1"} if program.endswith("sweep.py") else {}
    process = subprocess.Popen(command, env={**os.environ, **threads})
    try:
        code = process.wait()
    except KeyboardInterrupt:
        process.wait()  # it was told too, and saves what it is at
        raise
    if code == 1 and program.endswith("sweep.py"):
        FAILED.append(" ".join(map(str, options)))
    elif code:
        sys.exit(code)


def make_pairs(own: Arguments) -> Path:
    """Samples and scores the completions that the text sweeps train on, unless they are there.

    The pairs are kept among the results: another machine would draw others.
    """
    folder, kept = Path(f"{own.runs}/dataset-sweep"), Path(f"{own.output}/text_pairs")
    splits = {folder / f"{name}.jsonl": kept / f"{name}.jsonl.gz" for name in ("train", "test")}
    if all(file.exists() for file in splits.values()) and not folder.exists():
        for made, file in splits.items():
            rows.write_rows(made, rows.read_rows(file))
    if not all(made.exists() for made in splits):
        prompts, tokens = (48, 16) if own.quick else (1240, 48)
        call(
            "dataset/main.py", "--num_prompts", prompts, "--max_new_tokens", tokens,
            "--rule", "best_worst", "--test_size", 0.25, "--output_dir", folder,
        )  # fmt: skip
    for made, file in splits.items():
        if not file.exists():
            rows.write_rows(file, rows.read_rows(made))
        elif rows.read_rows(file) != rows.read_rows(made):
            sys.exit(
                f"{made} has other pairs than {file}: remove {folder}, or give another --output"
            )
    return folder


def sweep_text(own: Arguments, *options: object) -> str:
    """Runs a part of the text sweep and returns its folder; cells that are kept are not repeated.

    Those that finished are kept, also when it was stopped.
    """
    sweep = f"{own.runs}/sweep-imdb"
    kept = ("benchmarks/kept_cells.py", "--sweep", sweep, "--kept", f"{own.output}/text_cells")
    pairs = make_pairs(own)
    call(*kept)
    try:
        call(
            "train_dpo/sweep.py", *options, "--dataset", pairs, "--output_dir", sweep,
            "--jobs", own.jobs,
        )  # fmt: skip
    finally:
        call(*kept)
        if Path(f"{sweep}/table.csv").exists():
            with runs.replacing(f"{own.output}/text_table.csv") as beside:
                shutil.copyfile(f"{sweep}/table.csv", beside)
    return sweep


def draws(own: Arguments) -> tuple[object, ...]:
    """Returns the option of the programs that draw bootstrap samples."""
    return ("--draws", 500) if own.quick else ()


SMALL = (
    "--seed", 0, "--eval_openings", 12, "--eval_tokens", 16, "--learning_rates", 1e-3,
    "--check_betas", 0.4, "--check_steps", 2,
)  # fmt: skip
"""Options of the quick text sweep."""
STEEP = ("fkl", "alpha", "jeffreys", "--alpha", 0.3, 0.5, 0.7)
BETWEEN: dict[float, tuple[object, ...]] = {
    0.35: ("--loss", "sigmoid", "hinge", "jsd", "chi2_kl"),
    0.11: ("--loss", "hinge", "jsd", "ipo", *STEEP),
    0.035: ("--loss", "ipo", *STEEP),
    1.1: ("--loss", "sigmoid", "chi2_kl"),
    3.5: ("--loss", "chi2_kl"),
    6: ("--loss", "chi2_kl"),
}
"""Methods that need further strengths, between which the levels of the questions lie."""


def text(own: Arguments) -> None:
    config, between = CONFIGS / "sweep_imdb.yaml", CONFIGS / "sweep_imdb_between.yaml"
    small = ("--loss", "sigmoid", "jsd", "--beta", 0.02, 0.4, *SMALL) if own.quick else ()
    sweep = sweep_text(own, "--config", config, *small)
    betas = {0.02, 0.4} if own.quick else {*yaml.safe_load(config.read_text())["beta"]}
    for beta, methods in {} if own.quick else BETWEEN.items():
        sweep_text(own, "--config", between, *methods, "--beta", beta)
        betas.add(beta)
    call(
        "benchmarks/text_results.py", "--sweep", sweep, "--betas", *sorted(betas),
        "--output", f"{own.output}/text", *draws(own),
    )  # fmt: skip


def slic_hf(own: Arguments) -> None:
    given = ("--config", CONFIGS / "sweep_slic_hf.yaml")
    if own.quick:
        sweep = sweep_text(own, *given, "--loss", "sigmoid", "fkl", "--beta", 0.1, *SMALL)
    else:
        sweep = sweep_text(own, *given)
        sweep_text(own, *given, "--loss", "jsd", "--beta", 0.05, 0.5)
        sweep_text(own, *given, "--loss", "sigmoid", "hinge", "--beta", 0.5, 10)
    call(
        "benchmarks/slic_hf.py", "--sweep", sweep, "--output", f"{own.output}/slic_hf.json",
        *draws(own),
    )  # fmt: skip


def completions(own: Arguments) -> None:
    if own.completions is None:
        print("completions: left out, for --completions FILE is not given", flush=True)
        return
    sweep, given = f"{own.runs}/sweep-completions", Path(own.completions)
    if own.quick:
        given = Path(f"{own.runs}/completions.jsonl")
        rows.write_rows(given, rows.read_rows(own.completions)[:40])
    small = (
        "--loss", "sigmoid", "jsd", "--beta", 0.1, "--learning_rates", 3e-4,
        "--check_betas", 0.1, "--check_steps", 1, "--max_steps", 2,
    )  # fmt: skip
    call(
        "train_dpo/sweep.py", "--config", CONFIGS / "sweep_completions.yaml",
        "--dataset", given, "--output_dir", sweep, "--jobs", own.jobs,
        *(small if own.quick else ()),
    )  # fmt: skip
    call(
        "benchmarks/text_results.py", "--sweep", sweep, "--output", f"{own.output}/completions",
        *draws(own),
    )  # fmt: skip


def images(own: Arguments) -> None:
    small = (
        "--loss", "sigmoid", "jsd", "--beta", 1, "--seed", 0, "--max_train_steps", 4,
        "--train_batch_size", 8, "--eval_samples", 64, "--data", "digits",
    )  # fmt: skip
    sweeps = []
    for model in ("ddpm", "flow"):
        sweeps.append(f"{own.runs}/sweep-mnist-{model}")
        call(
            "diffusion/sweep.py", "--config", ROOT / "fdpo/programs/configs/diffusion/sweep_mnist.yaml",
            "--model", ROOT / f"pretrained/mnist-{model}", "--output_dir", sweeps[-1],
            "--jobs", own.jobs, *(small if own.quick else ()),
        )  # fmt: skip
    call(
        "benchmarks/image_results.py", "--sweeps", *sweeps, "--output", f"{own.output}/mnist_sweep"
    )


def tabular(own: Arguments) -> None:
    call("benchmarks/tabular.py", "--output", f"{own.output}/tabular.json")


def notebook(own: Arguments) -> None:
    """Runs the notebook on the results; those of another folder get one beside them."""
    import nbformat
    from nbclient import NotebookClient

    folder = Path(str(own.output)).resolve()
    os.environ["FDPO_RESULTS"] = str(folder)
    found = nbformat.read(ROOT / NOTEBOOK, as_version=4)
    NotebookClient(found, timeout=300, resources={"metadata": {"path": str(ROOT)}}).execute()
    for cell in found.cells:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if "image/png" in data:
                data["image/png"] = smaller(data["image/png"])
    target = (ROOT if folder == ROOT / "results" else folder) / NOTEBOOK
    with runs.replacing(target) as beside:
        nbformat.write(found, beside)
    print(target)


def smaller(picture: str) -> str:
    """Returns a PNG with a palette of 256 colours, a third of its size; both in base64."""
    from PIL import Image

    drawn, output = Image.open(io.BytesIO(base64.b64decode(picture))), io.BytesIO()
    drawn.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(output, "PNG", optimize=True)
    return base64.b64encode(output.getvalue()).decode()


def main() -> None:
    (own,) = arguments.parse((Arguments,), program="results.py")
    made: dict[str, Callable[[Arguments], None]] = {
        "text": text, "slic_hf": slic_hf, "completions": completions, "images": images,
        "tabular": tabular, "notebook": notebook,
    }  # fmt: skip
    for part in PARTS:
        if part in own.parts:
            made[part](own)
    if FAILED:
        sys.exit("cells failed; the same command tries them again: " + "; ".join(FAILED))


if __name__ == "__main__":
    main()
