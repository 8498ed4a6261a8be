"""How to raise the share of a digit: methods, and divergences, on pairs of real MNIST pictures.

    python benchmarks/mnist.py --table methods --data_root DIR
    python benchmarks/mnist.py --table losses --data_root DIR

Every row of a table is ``diffusion/train.py`` with the options that the row names, on pairs of a
random two and a random other digit, from the embedded DDPM and the embedded flow model, with each
seed. The losses are trained without an SFT term, at one kappa and with betas that make their slopes
equal for equal models. Runs that are there are kept; interrupted ones resume.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from programs import ROOT, cell, log, trained

from fdpo import runs
from fdpo.cli import arguments

RECIPE = "--learning_rate 1e-3 --lr_scheduler cosine --use_ema --ema_decay 0.95"
MIXED = f"{RECIPE} --kappa 10 --loser_gradient 1"
WITHOUT_SFT = f"{RECIPE} --method dpo --kappa 20 --beta 0.5 --loser_gradient 0.1 --match_curvature"
TABLES = {
    "methods": {
        "0.1 DPO + 1 SFT": f"{MIXED} --dpo_weight 0.1 --sft_weight 1",
        "SFT": f"{RECIPE} --method sft",
        "SFT, negative learning": f"{RECIPE} --method negative_sft",
        "1 DPO + 1 SFT": f"{MIXED} --dpo_weight 1 --sft_weight 1",
        "DPO": f"{MIXED} --method dpo",
    },
    "losses": {
        "sigmoid": f"{WITHOUT_SFT} --loss sigmoid",
        "jsd": f"{WITHOUT_SFT} --loss jsd",
        "alpha .5": f"{WITHOUT_SFT} --loss alpha --alpha 0.5",
        "hinge": f"{WITHOUT_SFT} --loss hinge",
        "fkl": f"{WITHOUT_SFT} --loss fkl",
    },
}
"""table -> row -> options of ``diffusion/train.py``."""

CURVE = ("share", "out_of_distribution", "variety")
COLUMNS = ("share", "out of distribution", "variety", "path KL (nats)")


@dataclass
class Arguments:
    """Table."""

    table: Literal["methods", "losses"] = field(default="methods", metadata={"help": "which rows"})
    data_root: str = field(default="data", metadata={"help": "folder of MNIST's files"})
    models: list[str] = field(
        default_factory=lambda: ["ddpm", "flow"], metadata={"help": "ddpm and flow"}
    )
    rows: list[str] | None = field(default=None, metadata={"help": "rows; default: all"})
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2], metadata={"help": "seeds"})
    max_train_steps: int = field(default=200, metadata={"help": "updates of 64 pairs"})
    validation_steps: int = field(default=67, metadata={"help": "updates between points"})
    eval_samples: int = field(default=512, metadata={"help": "samples of each model"})
    jobs: int = field(default=2, metadata={"help": "runs at a time, one thread each"})
    output: str | None = field(
        default=None, metadata={"help": "where the figures go; default: results/mnist_TABLE.json"}
    )

    def __post_init__(self) -> None:
        if unknown := set(self.rows or ()) - set(TABLES[self.table]):
            raise ValueError(f"--rows {unknown.pop()}: there is {', '.join(TABLES[self.table])}")
        self.output = self.output or f"results/mnist_{self.table}.json"


def train(row: str, model: str, seed: int, own: Arguments) -> dict[str, Any]:
    """Trains a model as a row says, unless that is done, and returns its figures."""
    name = runs.file_name(f"{row}-{model}-{seed}-{own.max_train_steps}")
    folder = Path(f"runs/mnist-{own.table}") / name
    found = trained(
        "diffusion/train.py", folder, *TABLES[own.table][row].split(), "--seed", seed,
        "--model", ROOT / f"pretrained/mnist-{model}", "--data", "mnist",
        "--data_root", own.data_root, "--max_train_steps", own.max_train_steps,
        "--train_batch_size", 64, "--validation_steps", own.validation_steps,
        "--eval_samples", own.eval_samples,
    )  # fmt: skip
    curve = [
        {"step": point["step"], **{name: point[f"validation/{name}"] for name in CURVE}}
        for point in log(folder)
        if "validation/share" in point and point["step"] < own.max_train_steps
    ]
    curve.append({"step": found["steps"], **{name: found[name] for name in CURVE}})
    print(f"{row}, {model}, seed {seed}: share {found['share']:.3f}", flush=True)
    return {"row": row, "model": model, "seed": seed, "curve": curve, **found}


def summary(rows: list[dict[str, Any]]) -> str:
    """Returns the table, with standard errors over seeds; the curve is the share on the way."""
    lines = [f"| model | row | {' | '.join(COLUMNS)} | share on the way |", "|---" * 7 + "|"]
    for model in dict.fromkeys(row["model"] for row in rows):
        mine = [row for row in rows if row["model"] == model]
        base = [
            cell([r[f"base_{name}"] for r in mine if r["seed"] == mine[0]["seed"]][:1])
            for name in CURVE
        ]
        lines.append(f"| {model} | base | {' | '.join(base)} | | |")
        for name in dict.fromkeys(row["row"] for row in mine):
            cells = [r for r in mine if r["row"] == name]
            figures = [cell([r[column] for r in cells]) for column in (*CURVE, "path_kl")]
            points = zip(*(r["curve"] for r in cells), strict=True)
            way = ", ".join(
                f"{point[0]['step']}: {sum(p['share'] for p in point) / len(point):.2f}"
                for point in points
            )
            lines.append(f"| {model} | {name} | {' | '.join(figures)} | {way} |")
    return "\n".join(lines)


def main() -> None:
    (own,) = arguments.parse((Arguments,), program="mnist.py")
    cells = [
        (row, model, seed, own)
        for seed in own.seeds
        for model in own.models
        for row in own.rows or TABLES[own.table]
    ]
    done: list[dict[str, Any]] = []
    record: dict[str, Any] = {"arguments": arguments.resolved(own), "commit": runs.git_commit()}
    record["options"] = TABLES[own.table]
    with ThreadPoolExecutor(own.jobs) as pool:
        for row in pool.map(lambda one: train(*one), cells):
            done.append(row)
            runs.write_json(str(own.output), record | {"rows": done})
    print(summary(done))


if __name__ == "__main__":
    main()
