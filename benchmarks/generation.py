"""Completions per second: one prompt at a time, as in slic-hf, and fdpo's batches of prompts.

    python -m benchmarks.generation --data_root DIR

Both sample six completions of each of the same IMDb prompts from the embedded language model, at
temperature 1 and without top-k or top-p. ``one prompt at a time`` is ``model.generate`` with
``num_return_sequences``; fdpo's batches hold prompts of similar length, each run once for its six
completions. Before that both must agree on the most likely completions. The second half of the
table is the scoring of the completions by the embedded classifier: six at a time, and all at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.comparison import Row, alternate, markdown_table, now, ratio, side_values
from fdpo import preferences
from fdpo.cli import arguments
from fdpo.llm.generation.sampling import sample
from fdpo.llm.models import load_model, load_tokenizer
from fdpo.scorers import Scorer, get_scorer

PROGRAM = "benchmarks.generation"
PROMPTS = "gpt2_imdb_scored/scored_500.jsonl.gz"
GENERATION = ("one prompt at a time", "fdpo")
SCORING = ("scoring, one prompt at a time", "scoring, fdpo")
COLDEST = 1e-4  # a temperature at which only the most likely token is sampled


@dataclass
class Arguments:
    """Comparison."""

    data_root: str = field(default="data", metadata={"help": "folder of the data"})
    model: str = field(default="pretrained/imdb-gpt2", metadata={"help": "folder"})
    scorer: str = field(default="pretrained/imdb-sentiment", metadata={"help": "scorer"})
    prompts: int = field(default=100, metadata={"help": "number of prompts"})
    completions: int = field(default=6, metadata={"help": "completions of each"})
    max_new_tokens: int = field(default=48, metadata={"help": "longest completion, tokens"})
    batch_size: int = field(default=96, metadata={"help": "completions at a time, fdpo's"})
    rounds: int = field(default=5, metadata={"help": "rounds"})
    bf16: bool = field(default=False, metadata={"help": "weights in bfloat16"})
    output: str = field(
        default="results/generation_speed.json", metadata={"help": "JSON file to write"}
    )


class Generation:
    """The two ways to complete prompts."""

    def __init__(self, args: Arguments) -> None:
        self.args, self.device = args, "cuda" if torch.cuda.is_available() else "cpu"
        dtype = "bfloat16" if args.bf16 else "float32"
        self.model: Any = load_model(args.model, self.device, dtype)
        self.tokenizer = load_tokenizer(args.model)

    def one_at_a_time(self, prompts: list[str], seed: int, **options: Any) -> list[list[str]]:
        """Completes prompts by transformers alone."""
        torch.manual_seed(seed)
        completions = []
        for prompt in prompts:
            inputs = self.tokenizer(prompt, return_tensors="pt").to(self.device)
            rows = self.model.generate(
                **inputs, **options, max_new_tokens=self.args.max_new_tokens, use_cache=True,
                pad_token_id=self.tokenizer.pad_token_id,
            )  # fmt: skip
            new_tokens = rows[:, inputs["input_ids"].shape[1] :]
            completions.append(self.tokenizer.batch_decode(new_tokens, skip_special_tokens=True))
        return completions

    def batched(self, prompts: list[str], seed: int, **options: Any) -> list[list[str]]:
        """Completes prompts by fdpo."""
        completions = sample(
            self.model, self.tokenizer, prompts, max_new_tokens=self.args.max_new_tokens,
            batch_size=self.args.batch_size, seed=seed, **options,
        )  # fmt: skip
        return [[completion.text for completion in row] for row in completions]

    def agreement(self, prompts: list[str]) -> float:
        """Returns the share of prompts with the same greedy completion."""
        single = self.one_at_a_time(prompts, 0, do_sample=False)
        batched = self.batched(prompts, 0, samples=1, temperature=COLDEST)
        return sum(a == b for a, b in zip(single, batched, strict=True)) / len(prompts)


def score_one_at_a_time(
    scorer: Scorer, prompts: list[str], completions: list[list[str]]
) -> list[float]:
    """Scores the completions of one prompt after the other."""
    rows = zip(prompts, completions, strict=True)
    return [score for prompt, row in rows for score in scorer([prompt] * len(row), row)]


def score_all(scorer: Scorer, prompts: list[str], completions: list[list[str]]) -> list[float]:
    """Scores all completions in one call."""
    rows = zip(prompts, completions, strict=True)
    flat = [(prompt, text) for prompt, row in rows for text in row]
    return scorer(*map(list, zip(*flat, strict=True)))


def summary(rows: list[Row]) -> str:
    """Returns the results as a table."""
    lines = [
        (
            side,
            f"{median(side_values(rows, side, 'completions_per_second')):.1f}",
            ratio(rows, side, base, "completions_per_second"),
        )
        for base, other in (GENERATION, SCORING)
        for side in (base, other)
    ]
    return markdown_table(("", "completions/s", "times one at a time"), lines)


def main() -> None:
    (args,) = arguments.parse((Arguments,), program=PROGRAM)
    with arguments.usage_errors(PROGRAM):
        generation, scorer = Generation(args), get_scorer(args.scorer)
        groups = preferences.read_groups(Path(args.data_root) / PROMPTS)
    prompts = [group.prompt for group in groups[: args.prompts]]
    agreement = generation.agreement(prompts)
    print(f"the same most likely completion for {agreement:.0%} of the prompts")
    if agreement < (0.5 if args.bf16 else 0.95):
        raise SystemExit("the sides do not agree: there is nothing to compare")
    completions = generation.batched(prompts, 0, samples=args.completions)
    options = {"do_sample": True, "num_return_sequences": args.completions,
               "temperature": 1.0, "top_k": 0, "top_p": 1.0}  # fmt: skip
    sides: dict[str, Callable[[int], Any]] = {
        GENERATION[0]: lambda seed: generation.one_at_a_time(prompts, seed, **options),
        GENERATION[1]: lambda seed: generation.batched(prompts, seed, samples=args.completions),
        SCORING[0]: lambda seed: score_one_at_a_time(scorer, prompts, completions),
        SCORING[1]: lambda seed: score_all(scorer, prompts, completions),
    }

    def measure(side: str, number: int) -> Row:
        start = now()
        sides[side](number)
        return {"completions_per_second": len(prompts) * args.completions / (now() - start)}

    record = {"arguments": arguments.resolved(args), "agreement": agreement}
    print(summary(alternate(list(sides), args.rounds, measure, args.output, record)))


if __name__ == "__main__":
    main()
