"""Completions per second: one prompt at a time, as slic-hf does, and fdpo's batches of prompts.

    python benchmarks/generation_speed.py --data_root DIR

Both draw six completions of each of the same IMDb openings from the embedded language model, at
temperature 1 and without top-k or top-p. ``one prompt at a time`` is ``model.generate`` with
``num_return_sequences``; fdpo's batches hold prompts of like length, each run once for its six
completions. First both must find the same likeliest completions. The second half of the table is
the scoring of the completions by the embedded classifier: six at a time, and all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import torch
from side_by_side import Row, alternate, now, ratio, table, values

from fdpo import preferences
from fdpo.cli import arguments
from fdpo.llm.generation.sampling import sample
from fdpo.llm.models import load_model, load_tokenizer
from fdpo.scorers import Scorer, get_scorer

OPENINGS = "gpt2_imdb_scored/scored_500.jsonl.gz"
GENERATION = ("one prompt at a time", "fdpo")
SCORING = ("scoring, one prompt at a time", "scoring, fdpo")
COLDEST = 1e-4  # a temperature at which only the likeliest token is drawn


@dataclass
class Arguments:
    """Comparison."""

    data_root: str = field(default="data", metadata={"help": "folder of the data"})
    model: str = field(default="pretrained/imdb-gpt2", metadata={"help": "folder"})
    scorer: str = field(default="pretrained/imdb-sentiment", metadata={"help": "what scores"})
    prompts: int = field(default=100, metadata={"help": "openings"})
    completions: int = field(default=6, metadata={"help": "completions of each"})
    max_new_tokens: int = field(default=48, metadata={"help": "longest completion, tokens"})
    batch_size: int = field(default=96, metadata={"help": "completions at a time, fdpo's"})
    rounds: int = field(default=5, metadata={"help": "rounds"})
    bf16: bool = field(default=False, metadata={"help": "weights in bfloat16"})
    output: str = field(
        default="results/generation_speed.json", metadata={"help": "file of figures"}
    )


class Generation:
    """The two ways to complete prompts."""

    def __init__(self, own: Arguments) -> None:
        self.own, self.device = own, "cuda" if torch.cuda.is_available() else "cpu"
        self.model: Any = load_model(own.model, self.device, "bfloat16" if own.bf16 else "float32")
        self.tokenizer = load_tokenizer(own.model)

    def one_at_a_time(self, prompts: list[str], seed: int, **options: Any) -> list[list[str]]:
        """Completes prompts by transformers alone; without options one way, the likeliest."""
        torch.manual_seed(seed)
        found = []
        for prompt in prompts:
            inputs = self.tokenizer(prompt, return_tensors="pt").to(self.device)
            rows = self.model.generate(
                **inputs, **options, max_new_tokens=self.own.max_new_tokens, use_cache=True,
                pad_token_id=self.tokenizer.pad_token_id,
            )  # fmt: skip
            ends = rows[:, inputs["input_ids"].shape[1] :]
            found.append(self.tokenizer.batch_decode(ends, skip_special_tokens=True))
        return found

    def batched(self, prompts: list[str], seed: int, **options: Any) -> list[list[str]]:
        """Completes prompts by fdpo."""
        drawn = sample(
            self.model, self.tokenizer, prompts, max_new_tokens=self.own.max_new_tokens,
            batch_size=self.own.batch_size, seed=seed, **options,
        )  # fmt: skip
        return [[completion.text for completion in row] for row in drawn]

    def agreement(self, prompts: list[str]) -> float:
        """Returns the share of prompts whose likeliest completion is the same, greedily."""
        alone = self.one_at_a_time(prompts, 0, do_sample=False)
        together = self.batched(prompts, 0, samples=1, temperature=COLDEST)
        return sum(a == b for a, b in zip(alone, together, strict=True)) / len(prompts)


def score_one_at_a_time(
    scorer: Scorer, prompts: list[str], completed: list[list[str]]
) -> list[float]:
    """Scores the completions of one prompt after the other."""
    rows = zip(prompts, completed, strict=True)
    return [score for prompt, row in rows for score in scorer([prompt] * len(row), row)]


def score(scorer: Scorer, prompts: list[str], completed: list[list[str]]) -> list[float]:
    """Scores all completions."""
    rows = zip(prompts, completed, strict=True)
    flat = [(prompt, text) for prompt, row in rows for text in row]
    return scorer(*map(list, zip(*flat, strict=True)))


def summary(rows: list[Row]) -> str:
    """Returns the table."""
    lines = [
        (
            side,
            f"{median(values(rows, side, 'completions_per_second')):.1f}",
            ratio(rows, side, base, "completions_per_second"),
        )
        for base, other in (GENERATION, SCORING)
        for side in (base, other)
    ]
    return table(("", "completions/s", "times one at a time"), lines)


def main() -> None:
    (own,) = arguments.parse((Arguments,), program="generation_speed.py")
    with arguments.usage_errors("generation_speed.py"):
        generation, scorer = Generation(own), get_scorer(own.scorer)
        groups = preferences.read_groups(Path(own.data_root) / OPENINGS)
    prompts = [group.prompt for group in groups[: own.prompts]]
    agree = generation.agreement(prompts)
    print(f"the same likeliest completion for {agree:.0%} of the prompts")
    if agree < (0.5 if own.bf16 else 0.95):
        raise SystemExit("the sides do not agree: there is nothing to compare")
    completed = generation.batched(prompts, 0, samples=own.completions)
    options = {"do_sample": True, "num_return_sequences": own.completions,
               "temperature": 1.0, "top_k": 0, "top_p": 1.0}  # fmt: skip
    ways: dict[str, Callable[[int], Any]] = {
        GENERATION[0]: lambda seed: generation.one_at_a_time(prompts, seed, **options),
        GENERATION[1]: lambda seed: generation.batched(prompts, seed, samples=own.completions),
        SCORING[0]: lambda seed: score_one_at_a_time(scorer, prompts, completed),
        SCORING[1]: lambda seed: score(scorer, prompts, completed),
    }

    def measure(side: str, number: int) -> Row:
        begun = now()
        ways[side](number)
        return {"completions_per_second": len(prompts) * own.completions / (now() - begun)}

    record = {"arguments": arguments.resolved(own), "agreement": agree}
    print(summary(alternate(list(ways), own.rounds, measure, own.output, record)))


if __name__ == "__main__":
    main()
