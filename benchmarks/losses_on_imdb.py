"""Seven losses on the embedded IMDb model, with one beta, one learning rate and as many updates.

    python benchmarks/losses_on_imdb.py

Each loss is trained with each seed (of the pairs and their order) by ``train_dpo/train.py``, and
measured on the same 200 held-out openings. Runs that are there are kept; interrupted ones resume.
The table says which loss meets each goal: reward up by half a standard deviation of the base's
rewards, sequence reverse KL of at most 20 nats, distinct-2 within prompts at least 0.8 of the
base's, and the VADER score, which no pair was made with, up as well.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from programs import ROOT, cell, log, mean, run, trained

from fdpo import runs
from fdpo.cli import arguments

RUNS = Path("runs/losses-on-imdb")
STRENGTH = ("beta", "learning_rate", "match_curvature", "tail", "sft_weight", "loser_gradient")
COLUMNS = (
    "loss", "reward (base sd)", "KL (nats)", "JS (nats)", "distinct-2 / base", "VADER",
    "entropy (nats)", "in tail", "goals",
)  # fmt: skip
REWARD, VADER = "imdb-sentiment", "vader"


@dataclass
class Arguments:
    """Comparison."""

    losses: list[str] = field(
        default_factory=lambda: "sigmoid hinge jsd fkl alpha jeffreys chi2_kl".split(),
        metadata={"help": "losses to train with"},
    )
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2], metadata={"help": "seeds"})
    beta: float = field(default=0.1, metadata={"help": "beta of every loss"})
    learning_rate: float = field(default=3e-4, metadata={"help": "learning rate of every loss"})
    match_curvature: bool = field(default=False, metadata={"help": "divide links by f''(1)"})
    tail: float = field(default=2.0, metadata={"help": "log of the slope factor where links turn"})
    sft_weight: float = field(default=1.0, metadata={"help": "weight of the chosen's likelihood"})
    loser_gradient: float = field(default=1.0, metadata={"help": "share of the rejected's"})
    num_prompts: int = field(default=1000, metadata={"help": "openings to make pairs of"})
    rule: str = field(default="best_worst", metadata={"help": "completions that meet in a pair"})
    jobs: int = field(default=2, metadata={"help": "runs at a time, one thread each"})
    output: str = field(
        default="results/losses_on_imdb.json", metadata={"help": "where the figures go"}
    )


def pairs(seed: int, own: Arguments) -> None:
    """Makes the pairs of a seed."""
    run(
        ROOT / "dataset/main.py", "--seed", seed, "--output_dir", RUNS / f"pairs-{seed}",
        "--num_prompts", own.num_prompts, "--rule", own.rule,
    )  # fmt: skip


def train(loss: str, seed: int, own: Arguments) -> dict[str, float]:
    """Trains a loss with a seed, unless that is done, and returns its figures."""
    folder = RUNS / f"{loss}-{seed}"
    metrics = trained(
        "train_dpo/train.py", folder, "--loss", loss, "--seed", seed,
        "--dataset", RUNS / f"pairs-{seed}", "--eval_prompts", "model",
        *(f"--{name}={getattr(own, name)}" for name in STRENGTH),
    )  # fmt: skip
    print(
        f"{loss} seed {seed}: reward {metrics[REWARD]:.3f}, KL {metrics['reverse_kl']:.2f}",
        flush=True,
    )
    tails = [row["tail_fraction"] for row in log(folder) if "tail_fraction" in row]
    return {"loss": loss, "seed": seed, "tail_fraction": mean(tails), **metrics}


def summary(rows: list[dict[str, float]]) -> str:
    """Returns the table: changes from the base to the policy, with standard errors over seeds."""
    lines = [f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|"]
    for loss in dict.fromkeys(row["loss"] for row in rows):
        mine = [row for row in rows if row["loss"] == loss]
        gain = [(r[REWARD] - r[f"base_{REWARD}"]) / r[f"base_{REWARD}_sd"] for r in mine]
        distinct = [r["distinct_2"] / r["base_distinct_2"] for r in mine]
        vader = [r[VADER] - r[f"base_{VADER}"] for r in mine]
        kl, js = [r["reverse_kl"] for r in mine], [r["js"] for r in mine]
        entropy = [r["entropy"] - r["base_entropy"] for r in mine]
        tail = [r["tail_fraction"] for r in mine]
        goals = {
            "reward": mean(gain) >= 0.5,
            "KL": mean(kl) <= 20,
            "distinct": mean(distinct) >= 0.8,
            "VADER": mean(vader) > 0,
        }
        missed = [name for name, met in goals.items() if not met]
        cells = [cell(values) for values in (gain, kl, js, distinct, vader, entropy, tail)]
        verdict = f"misses {', '.join(missed)}" if missed else "all met"
        lines.append(f"| {loss} | {' | '.join(cells)} | {verdict} |")
    return "\n".join(lines)


def main() -> None:
    (own,) = arguments.parse((Arguments,), program="losses_on_imdb.py")
    cells = [(loss, seed, own) for seed in own.seeds for loss in own.losses]
    rows: list[dict[str, float]] = []
    with ThreadPoolExecutor(own.jobs) as pool:
        list(pool.map(lambda seed: pairs(seed, own), own.seeds))
        for row in pool.map(lambda one: train(*one), cells):
            rows.append(row)
            runs.write_json(own.output, {"arguments": arguments.resolved(own), "rows": rows})
    print(summary(rows))


if __name__ == "__main__":
    main()
