"""Everything that results.ipynb shows: sweeps, their tables and answers, the notebook.

    python -m experiments.results                      # hours; the same command resumes it
    python -m experiments.results --quick              # minutes: the same on a small scale
    python -m experiments.results --parts text tabular

Parts: ``text`` (the sweep on IMDb), ``slic_hf`` (slic-hf's losses at its beta), ``completions``
(scored completions of another model, given by ``--completions``), ``images`` (sweeps of the DDPM
and the flow model), ``tabular`` (worlds with a known optimum), ``notebook``.

The measurements of the text sweep's runs are archived in OUTPUT/text_runs and their pairs in
OUTPUT/text_pairs: these runs are not repeated. Another ``--output`` and ``--runs`` start from
nothing.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from experiments.notebook import ROOT, execute
from fdpo import runs
from fdpo.cli import arguments
from fdpo.cli.arguments import find_preset
from fdpo.runs.rows import read_rows, write_rows

PROGRAM = "experiments.results"
PARTS = ("text", "slic_hf", "completions", "images", "tabular", "notebook")


@dataclass
class Arguments:
    """Results."""

    parts: list[str] = field(
        default_factory=lambda: list(PARTS), metadata={"help": "parts to make; default: all"}
    )
    quick: bool = field(default=False, metadata={"help": "a small version in a separate folder"})
    completions: str | None = field(
        default=None, metadata={"help": "file of scored completions; needed for that part"}
    )
    jobs: int = field(default=2, metadata={"help": "runs of a sweep at a time"})
    runs: str | None = field(
        default=None, metadata={"help": "folder of the runs; default: runs, or runs/quick"}
    )
    output: str | None = field(
        default=None, metadata={"help": "folder of the results; default: results, or RUNS/results"}
    )

    def __post_init__(self) -> None:
        if unknown := set(self.parts) - set(PARTS):
            raise ValueError(f"unknown --parts {unknown.pop()!r}; choose from {', '.join(PARTS)}")
        self.runs = self.runs or ("runs/quick" if self.quick else "runs")
        self.output = self.output or (f"{self.runs}/results" if self.quick else "results")


INCOMPLETE: list[str] = []
"""The options of sweeps with failed runs; the results come from the other runs."""


def call(program: str, *options: object) -> None:
    """Runs a program or a module of the repository and shows its output.

    Its failure ends this program, except for a sweep with failed runs (status 1).
    """
    words = [program] if program.endswith(".py") else ["-m", program]
    print("$ python", *words, *options, flush=True)
    is_sweep = program.endswith("sweep.py")
    if program.endswith(".py"):
        words = [str(ROOT / program)]
    environment = {**os.environ, **({"OMP_NUM_THREADS": "1"} if is_sweep else {})}
    process = subprocess.Popen([sys.executable, *words, *map(str, options)], env=environment)
    try:
        code = process.wait()
    except KeyboardInterrupt:
        process.wait()  # it received the signal too, and saves its state
        raise
    if code == 1 and is_sweep:
        INCOMPLETE.append(" ".join(map(str, options)))
    elif code:
        sys.exit(code)


def text_pairs(args: Arguments) -> Path:
    """Samples and scores the completions that the text sweeps train on, unless they exist.

    The pairs are saved among the results: another machine would sample others.
    """
    folder, saved = Path(f"{args.runs}/dataset-sweep"), Path(f"{args.output}/text_pairs")
    splits = {folder / f"{name}.jsonl": saved / f"{name}.jsonl.gz" for name in ("train", "test")}
    if all(file.exists() for file in splits.values()) and not folder.exists():
        for file, saved_file in splits.items():
            write_rows(file, read_rows(saved_file))
    if not all(file.exists() for file in splits):
        prompts, tokens = (48, 16) if args.quick else (1240, 48)
        call(
            "dataset/main.py", "--num_prompts", prompts, "--max_new_tokens", tokens,
            "--rule", "best_worst", "--test_size", 0.25, "--output_dir", folder,
        )  # fmt: skip
    for file, saved_file in splits.items():
        if not saved_file.exists():
            write_rows(saved_file, read_rows(file))
        elif read_rows(saved_file) != read_rows(file):
            sys.exit(
                f"{file} has other pairs than {saved_file}: remove {folder}, or choose another "
                "--output"
            )
    return folder


def sweep_text(args: Arguments, *options: object) -> str:
    """Runs a part of the text sweep and returns its folder; archived runs are not repeated.

    Finished runs are archived even if the sweep was stopped.
    """
    sweep = f"{args.runs}/sweep-imdb"
    archive = (
        "experiments.archive", "--sweep", sweep, "--archive", f"{args.output}/text_runs",
    )  # fmt: skip
    pairs = text_pairs(args)
    call(*archive)
    try:
        call(
            "train_dpo/sweep.py", *options, "--dataset", pairs, "--output_dir", sweep,
            "--jobs", args.jobs,
        )  # fmt: skip
    finally:
        call(*archive)
        if Path(f"{sweep}/table.csv").exists():
            with runs.replacing(f"{args.output}/text_table.csv") as beside:
                shutil.copyfile(f"{sweep}/table.csv", beside)
    return sweep


def bootstrap_options(args: Arguments) -> tuple[object, ...]:
    """Returns the options of the programs that use the bootstrap."""
    return ("--draws", 500) if args.quick else ()


SMALL = (
    "--seed", 0, "--eval_num_prompts", 12, "--eval_tokens", 16, "--learning_rates", 1e-3,
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
"""Further values of beta for some methods, around the levels of the questions."""


def text(args: Arguments) -> None:
    """Runs the text sweep and answers its questions."""
    small = ("--loss", "sigmoid", "jsd", "--beta", 0.02, 0.4, *SMALL) if args.quick else ()
    sweep = sweep_text(args, "--config", "sweep_imdb", *small)
    preset = yaml.safe_load(
        Path(find_preset("sweep_imdb", "train_dpo")).read_text(encoding="utf-8")
    )
    betas = {0.02, 0.4} if args.quick else {*preset["beta"]}
    for beta, methods in {} if args.quick else BETWEEN.items():
        sweep_text(args, "--config", "sweep_imdb_between", *methods, "--beta", beta)
        betas.add(beta)
    call(
        "experiments.text", "--sweep", sweep, "--betas", *sorted(betas),
        "--output", f"{args.output}/text", *bootstrap_options(args),
    )  # fmt: skip


def slic_hf(args: Arguments) -> None:
    """Runs slic-hf's losses at its beta, in the folder of the text sweep."""
    preset = ("--config", "sweep_slic_hf")
    if args.quick:
        sweep = sweep_text(args, *preset, "--loss", "sigmoid", "fkl", "--beta", 0.1, *SMALL)
    else:
        sweep = sweep_text(args, *preset)
        sweep_text(args, *preset, "--loss", "jsd", "--beta", 0.05, 0.5)
        sweep_text(args, *preset, "--loss", "sigmoid", "hinge", "--beta", 0.5, 10)
    call(
        "experiments.slic_hf", "--sweep", sweep, "--output", f"{args.output}/slic_hf.json",
        *bootstrap_options(args),
    )  # fmt: skip


def completions(args: Arguments) -> None:
    """Runs the sweep on scored completions of another model."""
    if args.completions is None:
        print("completions: skipped, because --completions FILE is missing", flush=True)
        return
    sweep, file = f"{args.runs}/sweep-completions", Path(args.completions)
    if args.quick:
        file = Path(f"{args.runs}/completions.jsonl")
        write_rows(file, read_rows(args.completions)[:40])
    small = (
        "--loss", "sigmoid", "jsd", "--beta", 0.1, "--learning_rates", 3e-4,
        "--check_betas", 0.1, "--check_steps", 1, "--max_steps", 2,
    )  # fmt: skip
    call(
        "train_dpo/sweep.py", "--config", "sweep_completions", "--dataset", file,
        "--output_dir", sweep, "--jobs", args.jobs, *(small if args.quick else ()),
    )  # fmt: skip
    call(
        "experiments.text", "--sweep", sweep, "--output", f"{args.output}/completions",
        *bootstrap_options(args),
    )  # fmt: skip


def images(args: Arguments) -> None:
    """Runs the sweeps of the embedded image models."""
    small = (
        "--loss", "sigmoid", "jsd", "--beta", 1, "--seed", 0, "--max_train_steps", 4,
        "--train_batch_size", 8, "--eval_samples", 64, "--data", "digits",
    )  # fmt: skip
    sweeps = []
    for model in ("ddpm", "flow"):
        sweeps.append(f"{args.runs}/sweep-mnist-{model}")
        call(
            "diffusion/sweep.py", "--config", "sweep_mnist",
            "--model", ROOT / f"pretrained/mnist-{model}", "--output_dir", sweeps[-1],
            "--jobs", args.jobs, *(small if args.quick else ()),
        )  # fmt: skip
    call("experiments.images", "--sweeps", *sweeps, "--output", f"{args.output}/mnist_sweep")


def tabular(args: Arguments) -> None:
    """Computes the optima of tabular worlds."""
    call("experiments.tabular", "--output", f"{args.output}/tabular.json")


def notebook(args: Arguments) -> None:
    """Runs the notebook on the results."""
    print(execute(str(args.output)))


def main() -> None:
    (args,) = arguments.parse((Arguments,), program=PROGRAM)
    parts: dict[str, Callable[[Arguments], None]] = {
        "text": text, "slic_hf": slic_hf, "completions": completions, "images": images,
        "tabular": tabular, "notebook": notebook,
    }  # fmt: skip
    for part in PARTS:
        if part in args.parts:
            parts[part](args)
    if INCOMPLETE:
        sys.exit("runs failed; the same command tries them again: " + "; ".join(INCOMPLETE))


if __name__ == "__main__":
    main()
