"""Compares a trained model with its reference on openings that it never saw.

    python train_dpo/evaluate.py --model runs/train_dpo-jsd

Both are sampled as they are (temperature 1, nothing filtered); every figure has a standard error
over openings. ``--reference`` is by default what the run was started from. ``--pairs FILE`` adds
how often the policy prefers the chosen side of held-out pairs, and whether it is as sure as it is
right.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from pathlib import Path

import torch

from fdpo import runs
from fdpo.cli import arguments
from fdpo.estimators.calibration import calibration
from fdpo.llm.evaluate import HELD_OUT_SEED, SamplingConfig, compare, held_out_prompts
from fdpo.llm.models import load_model, load_tokenizer, options_of, reference_of
from fdpo.losses.config import LossConfig
from fdpo.preferences.prompts import read_prompts
from fdpo.preferences.schema import preferences_from_rows
from fdpo.runs.rows import read_rows
from fdpo.scorers import get_scorer
from fdpo.tasks import PRETRAINED


@dataclass
class EvaluationArguments:
    """Evaluation."""

    model: str = field(metadata={"help": "the trained model: folder or hub id"})
    reference: str | None = field(
        default=None, metadata={"help": "the reference; default: as run.json of --model says"}
    )
    prompts: str | None = field(
        default=None, metadata={"help": ".txt file with an opening a line; default: sampled here"}
    )
    openings: int = field(default=200, metadata={"help": "openings to compare on"})
    samples: int = field(default=4, metadata={"help": "samples of each opening"})
    max_new_tokens: int = field(default=48, metadata={"help": "longest sample, tokens"})
    batch_size: int = field(default=64, metadata={"help": "samples in a batch"})
    scorers: list[str] = field(
        default_factory=lambda: [str(PRETRAINED / "imdb-sentiment"), "vader"],
        metadata={"help": "rewards: classifiers, vader, package.module:function"},
    )
    embed: bool = field(
        default=True, metadata={"help": "Vendi score, by the reference's hidden states"}
    )
    pairs: str | None = field(
        default=None, metadata={"help": "file of held-out pairs: accuracy and calibration on them"}
    )
    reference_cache: str | None = field(
        default=None,
        metadata={"help": "folder of the reference's samples, or off; default: ~/.cache/fdpo"},
    )
    seed: int = field(default=HELD_OUT_SEED, metadata={"help": "of openings and samples"})
    output_dir: str | None = field(
        default=None,
        metadata={
            "help": "folder of evaluation.json, samples.md and samples.jsonl; default: model"
        },
    )


def main() -> None:
    (own,) = arguments.parse(
        (EvaluationArguments,),
        program="evaluate.py",
        presets="train_dpo",
        description=(__doc__ or "").split("\n")[0],
    )
    # TRL sets it under the name that transformers is about to drop.
    warnings.filterwarnings("ignore", ".*gradient_checkpointing", FutureWarning)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with arguments.usage_errors("evaluate.py"):
        options = options_of(own.model)
        trained = LossConfig.from_run(options)
        if own.pairs is not None:
            if trained is None:
                raise ValueError(f"--pairs needs beta and divergence: {own.model} is no f-DPO run")
            pairs, _ = preferences_from_rows(read_rows(own.pairs), own.pairs)
        name = own.reference or reference_of(own.model)
        policy, reference = load_model(own.model, device), load_model(name, device)
        tokenizer = load_tokenizer(name)
        scorers = {Path(scorer).name: get_scorer(scorer) for scorer in own.scorers}
        if own.prompts is None:
            prompts = held_out_prompts(reference, tokenizer, own.openings, seed=own.seed)
        else:
            prompts = read_prompts(own.prompts)[: own.openings]
    comparison = compare(
        policy,
        reference,
        tokenizer,
        prompts,
        scorers,
        SamplingConfig(own.samples, own.max_new_tokens, own.batch_size, own.seed),
        divergence=trained.resolve()[0] if trained else None,
        embed=own.embed,
        reference_cache=own.reference_cache,
    )
    metrics = comparison.metrics()
    lines = [comparison.samples(3), comparison.table()]
    if own.pairs is not None:
        from fdpo.llm.margins import held_out_margins  # importing TRL takes seconds

        margins, pair_prompts = held_out_margins(policy, reference, tokenizer, pairs, options)
        found = calibration(margins, pair_prompts)
        metrics |= found.metrics("pairs_")
        value, error, _ = found.accuracy
        lines.append(
            f"{len(margins)} held-out pairs: accuracy {value:.3f} ± {error:.3f}, nats per pair "
            f"{found.nll.value:.3f}, calibration error {found.ece:.3f}"
        )
    folder = Path(own.output_dir or (own.model if Path(own.model).is_dir() else "runs/evaluate"))
    record = arguments.resolved(own) | metrics | {"warnings": comparison.warnings()}
    runs.write_json(folder / "evaluation.json", record)
    runs.write_text(folder / "samples.md", comparison.samples())
    runs.write_jsonl(folder / "samples.jsonl", comparison.rows)
    print(*lines, sep="\n")


if __name__ == "__main__":
    main()
