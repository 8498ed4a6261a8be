"""Makes preference data: prompts, completions of a model, scores, pairs by rank, train and test.

    python dataset/main.py
    python dataset/main.py --config dataset/configs/imdb.yaml
    python dataset/main.py --groups scored.jsonl.gz --k 3 --k_top 4

With no arguments the embedded IMDb model continues openings of its own, and the embedded sentiment
classifier scores them. The folder it makes loads with ``datasets.load_dataset``. An interrupted
command goes on when it is given again; ``torchrun`` and ``accelerate launch`` share the prompts.
"""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi

from fdpo import arguments, preferences, runs
from fdpo.llm import feedback, models
from fdpo.llm.processes import processes
from fdpo.llm.prompts import own_openings, read_prompts
from fdpo.scorers import get_scorer

ROOT = Path(__file__).resolve().parents[1]


@dataclass
class SourceArguments:
    """Prompts, model and scorer."""

    model: str = field(
        default=str(ROOT / "pretrained/imdb-gpt2"),
        metadata={"help": "what completes the prompts: hub id or folder"},
    )
    dtype: str = field(default="float32", metadata={"help": "the model's dtype, e.g. bfloat16"})
    prompts: str = field(
        default="model",
        metadata={
            "help": "model: openings sampled from itself; a .txt file with a prompt a line; or "
            "openings of the column text of a file (JSONL, Parquet, CSV) or hub id"
        },
    )
    num_prompts: int | None = field(
        default=None,
        metadata={"help": "prompts, chosen by the seed; default: 200 of model, else all"},
    )
    prompt_words: int = field(
        default=8, metadata={"help": "words of an opening; 0: the first sentence of a text"}
    )
    scorer: str = field(
        default=str(ROOT / "pretrained/imdb-sentiment"),
        metadata={"help": "classifier (hub id or folder), vader, or package.module:function"},
    )
    scorer_label: str | None = field(
        default=None, metadata={"help": "label that counts; default: the positive, else the last"}
    )
    scorer_logit: bool = field(
        default=False, metadata={"help": "score by the label's plain logit, not its log-odds"}
    )

    def __post_init__(self) -> None:
        if self.prompt_words < 0:
            raise ValueError(f"prompt_words must not be below 0, but is {self.prompt_words}")
        if self.num_prompts is not None and self.num_prompts < 1:
            raise ValueError(f"num_prompts must be at least 1, not {self.num_prompts}")
        if self.prompts.endswith(".txt") and self.prompt_words != type(self).prompt_words:
            raise ValueError("prompt_words has no effect on the prompts of a .txt file")


@dataclass
class DatasetArguments(preferences.RankArguments):
    """Pairs and output."""

    groups: str | None = field(
        default=None, metadata={"help": "file of scored groups: only pair and split them"}
    )
    test_size: float = field(default=0.1, metadata={"help": "share of the prompts held out"})
    seed: int = field(default=0, metadata={"help": "seed of prompts, completions and split"})
    output_dir: str | None = field(
        default=None, metadata={"help": "folder to make; default: runs/dataset-MODEL (or -FILE)"}
    )
    push_to_hub: str | None = field(
        default=None, metadata={"help": "hub id of a data set to upload the folder to"}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        preferences.require_share(self.test_size)


def main() -> None:
    source, how, own = arguments.parse(
        (SourceArguments, feedback.CompletionArguments, DatasetArguments),
        program="main.py",
        description=(__doc__ or "").split("\n")[0],
        check=require_effect,
    )
    name = Path(own.groups).name.split(".")[0] if own.groups else Path(source.model).name
    folder = Path(own.output_dir or f"runs/dataset-{name}")
    options = arguments.resolved(source, how, own)
    state = processes()
    try:
        if own.groups:
            counts = pair(own.groups, own, folder, options)
        else:
            counts = generate(source, how, own, folder, options)
    except KeyboardInterrupt:
        print(f"\ninterrupted; the same command goes on with {folder}")
        sys.exit(130)
    if state.is_main_process:
        report(folder, counts, own.push_to_hub)


def require_effect(
    source: SourceArguments, how: feedback.CompletionArguments, own: DatasetArguments
) -> None:
    """Refuses options that --groups, which generates nothing, would ignore."""
    idle = [
        f"--{option.name}"
        for options in (source, how)
        for option in fields(options)
        if own.groups and getattr(options, option.name) != option.default
    ]
    if idle:
        raise ValueError(f"no effect with --groups, whose scores exist: {', '.join(idle)}")


def start(folder: Path, options: dict[str, Any]) -> bool:
    """Makes the folder or goes on with it; says whether its data set is complete."""
    started = (folder / runs.RECORD).exists()
    if processes().is_main_process and not started and folder.is_dir() and any(folder.iterdir()):
        raise ValueError(f"--output_dir {folder} holds something else: choose another")
    runs.prepare(folder, options, resume="parts" if started else None)
    return (folder / "README.md").exists()


def pair(file: str, own: DatasetArguments, folder: Path, options: dict[str, Any]) -> Counter[str]:
    """Pairs and splits scored groups of a file."""
    with arguments.usage_errors():
        groups = preferences.read_groups(file)
        preferences.pairs_of(groups, **own.ranking(), source=file)
        if start(folder, options):
            return Counter()
    facts = {"groups": Path(file).name} | pairing(own)
    return feedback.write_dataset(folder, groups, facts=facts, seed=own.seed, **pairing(own))


def generate(
    source: SourceArguments,
    how: feedback.CompletionArguments,
    own: DatasetArguments,
    folder: Path,
    options: dict[str, Any],
) -> Counter[str]:
    """Completes, scores, pairs and splits."""
    words, parts = source.prompt_words or None, folder / "parts"
    with arguments.usage_errors():
        tokenizer = models.load_tokenizer(source.model)
        model = models.load_model(source.model, processes().device, source.dtype)
        scorer = get_scorer(
            source.scorer,
            label=source.scorer_label,
            logit=source.scorer_logit,
            device=processes().device,
        )
        asked = [""]
        if source.prompts != "model":
            asked = read_prompts(source.prompts, words=words, n=source.num_prompts, seed=own.seed)
        feedback.check(model, tokenizer, asked, scorer, how)
        if start(folder, options):
            return Counter()
        if source.prompts == "model":
            n = source.num_prompts or 200
            asked = own_openings(model, tokenizer, n, words=words, seed=own.seed, parts=parts)
            feedback.check(model, tokenizer, asked, scorer, how)
    facts = asdict(source) | how.facts() | pairing(own) | {"seed": own.seed}
    facts = {name: str(value).removeprefix(f"{ROOT}/") for name, value in facts.items()}
    return feedback.make_dataset(
        folder, model, tokenizer, asked, scorer, how, seed=own.seed, facts=facts, **pairing(own)
    )


def pairing(own: DatasetArguments) -> dict[str, Any]:
    """How groups become pairs and splits."""
    return own.ranking() | {"test_size": own.test_size}


def report(folder: Path, counts: Counter[str], hub_id: str | None) -> None:
    """Says what was made, shows a pair, and uploads the folder if that was asked for."""
    print(preferences.describe(counts) if counts else f"{folder} was complete already")
    first = preferences.read_pairs(folder / "train.jsonl")[0]
    print(f"\nprompt    {first.prompt!r}")
    print(f"chosen    {first.chosen!r} (score {first.chosen_score:.3f})")
    print(f"rejected  {first.rejected!r} (score {first.rejected_score:.3f})\n")
    print(f"datasets.load_dataset({str(folder)!r}) loads it; {folder / 'README.md'} says more")
    if hub_id:
        files = ["README.md", "*.jsonl"]
        HfApi().create_repo(hub_id, repo_type="dataset", exist_ok=True)
        HfApi().upload_folder(
            repo_id=hub_id, repo_type="dataset", folder_path=folder, allow_patterns=files
        )
        print(f"uploaded to {hub_id}")


if __name__ == "__main__":
    main()
