"""Preference data from a model's own completions and a scorer: prompts, scored groups, a dataset.

The work is cut into batches of prompts. What a batch gives depends on the job's options and the
batch's number alone, and is kept as soon as it is there: processes share the batches between them,
and an interrupted job goes on with those that are missing, to the same result.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from fdpo.llm.generation.decoder import Completion, by_length, require_room
from fdpo.llm.generation.diverse_beams import diverse_beams
from fdpo.llm.generation.sampling import prompt_ids, sample
from fdpo.preferences.dataset import write_dataset
from fdpo.preferences.pairs import Group
from fdpo.runs.distributed import partial_state
from fdpo.runs.rows import read_rows, write_rows
from fdpo.runs.seeds import derived_seed
from fdpo.scorers import Scorer


@dataclass
class CompletionArguments:
    """Completions."""

    method: Literal["sample", "diverse_beams"] = field(
        default="sample", metadata={"help": "draw from the model, or diverse beam search"}
    )
    completions: int = field(default=6, metadata={"help": "completions of each prompt"})
    max_new_tokens: int = field(default=48, metadata={"help": "longest completion, tokens"})
    temperature: float = field(default=1.0, metadata={"help": "of sampling; 1: the model itself"})
    diversity: float = field(
        default=1.0, metadata={"help": "beams: penalty of a token that an earlier beam took, nats"}
    )
    no_repeat_ngram_size: int = field(
        default=0, metadata={"help": "beams: no run of so many tokens occurs twice; 0: it may"}
    )
    generation_batch_size: int = field(
        default=96, metadata={"help": "completions generated at a time, per process"}
    )

    def __post_init__(self) -> None:
        for name in ("completions", "max_new_tokens", "generation_batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.completions < 2:
            raise ValueError("completions must be at least 2: a pair needs two")
        if self.temperature <= 0 or self.diversity < 0:
            raise ValueError("temperature must be above 0, diversity not below 0")
        for name in self._idle():
            if getattr(self, name) != getattr(type(self), name):
                raise ValueError(f"{name} has no effect with method {self.method}")

    def _idle(self) -> tuple[str, ...]:
        beams = ("diversity", "no_repeat_ngram_size")
        return beams if self.method == "sample" else ("temperature",)

    def facts(self) -> dict[str, object]:
        """The options that have an effect, for a card."""
        return {name: value for name, value in asdict(self).items() if name not in self._idle()}

    def complete(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        prompts: Sequence[str],
        seed: int,
    ) -> list[list[Completion]]:
        """Completes each prompt as the options say."""
        if self.method == "sample":
            return sample(
                model,
                tokenizer,
                prompts,
                samples=self.completions,
                max_new_tokens=self.max_new_tokens,
                batch_size=self.generation_batch_size,
                seed=seed,
                temperature=self.temperature,
            )
        return diverse_beams(
            model,
            tokenizer,
            prompts,
            groups=self.completions,
            max_new_tokens=self.max_new_tokens,
            batch_size=self.generation_batch_size,
            diversity=self.diversity,
            no_repeat_ngram_size=self.no_repeat_ngram_size,
        )


def check(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    scorer: Scorer,
    how: CompletionArguments,
) -> None:
    """Raises `ValueError` for what would go wrong only later: a long prompt, a bad scorer."""
    require_room(model, prompts, prompt_ids(tokenizer, prompts), how.max_new_tokens)
    scorer(prompts[:2], prompts[:2])


def generate_groups(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    scorer: Scorer,
    how: CompletionArguments,
    *,
    seed: int,
    parts: Path,
) -> list[Group]:
    """Completes prompts and scores the completions; returns a group for each prompt, in order.

    Every process calls this and gets all groups. ``parts`` is a folder for finished batches, one
    file each; those that are there are not made again, so it must belong to these arguments.
    """
    state = partial_state()
    batches = list(by_length(prompts, max(1, how.generation_batch_size // how.completions)))
    mine = list(enumerate(batches))[state.process_index :: state.num_processes]
    missing = [(b, rows) for b, rows in mine if not _part(parts, b).exists()]
    total, left = (sum(len(rows) for _, rows in some) for some in (mine, missing))
    with tqdm(
        desc="completing and scoring",
        total=total * how.completions,
        initial=(total - left) * how.completions,
        unit=" completions",
        disable=not state.is_main_process,
    ) as bar:
        for b, rows in missing:
            asked = [prompts[row] for row in rows]
            completed = how.complete(model, tokenizer, asked, derived_seed(seed, b))
            groups = _scored(asked, completed, scorer)
            write_rows(_part(parts, b), (group.row() for group in groups))
            bar.update(len(rows) * how.completions)
    state.wait_for_everyone()
    found: dict[int, Group] = {}
    for b, rows in enumerate(batches):
        part = [Group(**row) for row in read_rows(_part(parts, b))]
        if [group.prompt for group in part] != [prompts[row] for row in rows]:
            raise ValueError(f"{_part(parts, b)} belongs to another job: delete {parts}")
        found |= zip(rows, part, strict=True)
    return [found[row] for row in range(len(prompts))]


def _part(parts: Path, batch: int) -> Path:
    return parts / f"{batch:06}.jsonl"


def _scored(
    prompts: Sequence[str], completed: Sequence[Sequence[Completion]], scorer: Scorer
) -> list[Group]:
    flat = [(prompt, c.text) for prompt, row in zip(prompts, completed, strict=True) for c in row]
    scores = iter(scorer(*map(list, zip(*flat, strict=True))))
    return [
        Group(
            prompt, [c.text for c in row], [next(scores) for _ in row], [c.truncated for c in row]
        )
        for prompt, row in zip(prompts, completed, strict=True)
    ]


def make_dataset(
    folder: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    scorer: Scorer,
    how: CompletionArguments,
    *,
    seed: int = 0,
    facts: Mapping[str, object],
    **pairing: Any,
) -> Counter[str]:
    """Generates groups in ``folder / "parts"`` and makes the folder of `write_dataset` of them."""
    parts = folder / "parts"
    groups = generate_groups(model, tokenizer, prompts, scorer, how, seed=seed, parts=parts)
    counts: Counter[str] = Counter()
    state = partial_state()
    state.wait_for_everyone()  # all have read the parts
    if state.is_main_process:
        counts = write_dataset(folder, groups, facts=facts, seed=seed, **pairing)
        shutil.rmtree(parts)
    return counts
