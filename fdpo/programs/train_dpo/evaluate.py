"""Compares a trained model with its reference on prompts that its training never used.

    python train_dpo/evaluate.py --model runs/train_dpo-jsd

Samples of both are unfiltered, at temperature 1; every metric has a standard error over prompts.
``--reference`` is by default the model that the run started from. ``--pairs FILE`` adds accuracy
and calibration of the policy on held-out pairs.
"""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fdpo import preferences, runs
from fdpo.cli import arguments
from fdpo.cli.quiet import quiet_libraries
from fdpo.losses.config import LossConfig
from fdpo.runs.distributed import partial_state
from fdpo.runs.folder import require_folder
from fdpo.tasks import PRETRAINED

if TYPE_CHECKING:
    from fdpo.llm.evaluate import Comparison
    from fdpo.llm.trainer import FDPOTrainer
    from fdpo.preferences.pairs import Pair


@dataclass
class EvaluationArguments:
    """Evaluation."""

    model: str = field(metadata={"help": "the trained model: folder or hub id"})
    reference: str | None = field(
        default=None, metadata={"help": "the reference; default: as run.json of --model says"}
    )
    loss: str | None = field(
        default=None, metadata={"help": "the run's loss again, if it is package.module:attribute"}
    )
    trust_remote_code: bool = field(
        default=False, metadata={"help": "run code of the repositories of model and reference"}
    )
    prompts: str | None = field(
        default=None, metadata={"help": ".txt file with a prompt a line; default: sampled here"}
    )
    num_prompts: int = field(default=200, metadata={"help": "prompts to compare on"})
    samples: int = field(default=4, metadata={"help": "samples of each prompt"})
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
    seed: int | None = field(
        default=None,
        metadata={"help": "seed of prompts and samples; default: one that no training uses"},
    )
    output_dir: str | None = field(
        default=None,
        metadata={
            "help": "folder of evaluation.json, samples.md and samples.jsonl; default: model"
        },
    )

    def __post_init__(self) -> None:
        require_folder(self.folder, "output_dir")

    @property
    def folder(self) -> Path:
        """The folder to write to."""
        model = self.model if Path(self.model).is_dir() else "runs/evaluate"
        return Path(self.output_dir or model)


def evaluate(args: EvaluationArguments) -> tuple[Comparison, dict[str, Any], str]:
    """Compares samples and measures pairs; a mistake in the options ends the program.

    All that either needs is checked before both.

    Returns:
        The comparison, the metrics of the pairs, and a line on them (empty without pairs).
    """
    from fdpo.llm.evaluate import HELD_OUT_SEED, SamplingConfig, compare, held_out_prompts
    from fdpo.llm.generation.completions import require_usable
    from fdpo.llm.margins import margin_trainer
    from fdpo.llm.models import ModelSource
    from fdpo.preferences.prompts import read_prompts
    from fdpo.scorers import get_scorer

    device = partial_state().device
    seed = args.seed = HELD_OUT_SEED if args.seed is None else args.seed
    with ExitStack() as stack:
        with arguments.usage_errors("evaluate.py"):
            options = runs.run_options(args.model)
            loss = LossConfig.from_run(options, args.loss)
            divergence = loss.resolve()[0] if loss else None
            pairs, counts = read_pairs(args, loss)
            trust = args.trust_remote_code
            named = args.reference and ModelSource(args.reference, trust_remote_code=trust)
            source = named or ModelSource.from_run(args.model, trust_remote_code=trust)
            policy = ModelSource(args.model, trust_remote_code=trust).model(device)
            reference, tokenizer = source.model(device), source.tokenizer()
            scorers = {Path(scorer).name: get_scorer(scorer) for scorer in args.scorers}
            if args.prompts is None:
                prompts = held_out_prompts(reference, tokenizer, args.num_prompts, seed=seed)
            else:
                prompts = read_prompts(args.prompts)[: args.num_prompts]
            for model in (policy, reference):
                require_usable(model, tokenizer, prompts, scorers.values(), args.max_new_tokens)
            trainer = margin_trainer(policy, reference, tokenizer, pairs, loss, options)
            measured = stack.enter_context(trainer) if pairs else None
        comparison = compare(
            policy,
            reference,
            tokenizer,
            prompts,
            scorers,
            SamplingConfig(args.samples, args.max_new_tokens, args.batch_size, seed),
            divergence=divergence,
            embed=args.embed,
            reference_cache=args.reference_cache,
        )
        if measured is None:
            return comparison, {}, ""
        return comparison, *measure_pairs(measured, counts)


def read_pairs(
    args: EvaluationArguments, loss: LossConfig | None
) -> tuple[list[Pair], Counter[str]]:
    """Reads the held-out pairs of ``--pairs``, which need the loss of the run, and counts them."""
    from fdpo.preferences.schema import preferences_from_rows
    from fdpo.runs.rows import read_rows

    if args.pairs is None:
        return [], Counter()
    if loss is None:
        raise ValueError(f"--pairs needs beta and divergence: {args.model} is no f-DPO run")
    return preferences_from_rows(read_rows(args.pairs), args.pairs)


def measure_pairs(trainer: FDPOTrainer, counts: Counter[str]) -> tuple[dict[str, float], str]:
    """Measures accuracy and calibration on held-out pairs, and describes them in a line."""
    from fdpo.estimators.calibration import calibration

    margins, prompts = trainer.held_out_margins()
    result = calibration(margins, prompts)
    accuracy, error, _ = result.accuracy
    line = (
        f"{len(margins)} held-out pairs: accuracy {accuracy:.3f} ± {error:.3f}, nats per pair "
        f"{result.nll.value:.3f}, calibration error {result.ece:.3f}"
    )
    if len(margins) < counts["candidates"]:
        counts = counts + Counter(prompts_too_long=counts["made"] - len(margins))
        line = f"{line}\n{preferences.describe(counts)}"
    return result.metrics("pairs_"), line


def main() -> None:
    quiet_libraries()
    (args,) = arguments.parse(
        (EvaluationArguments,),
        program="evaluate.py",
        presets="train_dpo",
        description=(__doc__ or "").split("\n")[0],
        aliases={"openings": "num_prompts"},  # its name in version 0.1
    )
    comparison, pair_metrics, pair_line = evaluate(args)
    metrics = comparison.metrics() | pair_metrics | {"warnings": comparison.warnings()}
    print(comparison.samples(3), comparison.table(), *filter(None, [pair_line]), sep="\n")
    folder = args.folder
    runs.write_json(folder / "evaluation.json", arguments.resolved(args) | metrics)
    runs.write_text(folder / "samples.md", comparison.samples())
    runs.write_jsonl(folder / "samples.jsonl", comparison.rows)


if __name__ == "__main__":
    main()
