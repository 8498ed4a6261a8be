"""Trains a language model on preference pairs with any f-divergence, and compares the result.

    python train_dpo/train.py --loss alpha --alpha 0.5

With no arguments it trains the embedded IMDb model on its own completions, which it samples and
scores on first use. ``--model`` and ``--dataset`` take hub ids, folders and files; ``--config``
takes a preset.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fdpo import preferences, runs
from fdpo.cli import arguments
from fdpo.cli.program import Run
from fdpo.cli.quiet import quiet_libraries
from fdpo.losses.config import RESETS
from fdpo.programs.train_dpo.options import (
    ALIASES,
    COMMON,
    TYPES,
    DataArguments,
    PolicyArguments,
    TrainConfig,
)
from fdpo.runs.distributed import is_main_process, run_first
from fdpo.tasks import COMMANDS

if TYPE_CHECKING:
    from datasets import DatasetDict

    from fdpo.llm.generation.conversations import Prompt
    from fdpo.llm.models import ModelSource
    from fdpo.llm.trainer import FDPOTrainer


def default_groups(source: ModelSource) -> str:
    """Returns the file of the model's own scored completions; dataset/main.py makes it."""
    name = f"dataset-{Path(source.name).name}"
    command = [sys.executable, str(COMMANDS / "dataset/main.py"), "--model", source.name]
    if source.revision not in (None, "main"):  # main is TRL's default
        name += f"-{runs.file_name(source.revision)}"
        command += ["--model_revision", source.revision]
    if source.trust_remote_code:
        command += ["--trust_remote_code", "true"]
    folder = Path("runs") / name
    run_first([*command, "--output_dir", str(folder)], target=folder / "README.md")
    return str(folder / "groups.jsonl")


def model_source(training: TrainConfig, model: PolicyArguments) -> ModelSource:
    """Returns the model to train, which is also the reference."""
    from fdpo.llm.models import ModelSource

    return ModelSource(model.model_name_or_path, model.model_revision, training.trust_remote_code)


def load_pairs(args: DataArguments, source: ModelSource) -> tuple[DatasetDict, Counter[str]]:
    """Loads the pairs, or makes them on first use, and counts those made and dropped."""
    from fdpo.llm.data import load_preferences

    return load_preferences(
        args.dataset_name or default_groups(source),
        args,
        config=args.dataset_config,
        train_split=args.dataset_train_split,
        test_split=args.dataset_test_split,
        test_share=args.test_share,
    )


def make_trainer(
    args: DataArguments,
    training: TrainConfig,
    model: PolicyArguments,
    source: ModelSource,
    data: DatasetDict,
) -> FDPOTrainer:
    """Makes the trainer as TRL's own script does."""
    from trl import get_peft_config, get_quantization_config

    from fdpo.llm.callbacks import use_brief_progress
    from fdpo.llm.generation.tokens import fitting_length
    from fdpo.llm.trainer import FDPOTrainer

    training.model_init_kwargs = {
        "revision": model.model_revision,
        "attn_implementation": model.attn_implementation,
        "dtype": model.dtype,
        "use_safetensors": True,
        **(training.model_init_kwargs or {}),
    }
    tokenizer = source.tokenizer()
    training.max_length = fitting_length(source.config(), training.max_length)
    trainer = FDPOTrainer(
        source.name,
        training,
        train_dataset=data["train"],
        eval_dataset=data["test"] if len(data["test"]) else None,
        processing_class=tokenizer,
        peft_config=get_peft_config(model),
        quantization_config=get_quantization_config(model),
        dataset_name=args.dataset_name,
    )
    use_brief_progress(trainer)
    return trainer


def select_prompts(
    args: DataArguments, data: DatasetDict, trainer: FDPOTrainer
) -> tuple[list[Prompt], list[str]]:
    """Returns the held-out prompts to compare on, and a line for those that cannot be sampled."""
    from fdpo.llm.evaluate import held_out_prompts
    from fdpo.llm.generation.tokens import prompt_ids, require_room
    from fdpo.preferences.prompts import read_prompts

    if not args.eval_num_prompts:
        return [], []
    origin = args.eval_prompts or ("data" if args.dataset_name else "model")
    if origin == "data":
        return prompts_with_room(args, trainer)
    if origin == "model":
        known = data["train"]["prompt"] if "prompt" in data["train"].column_names else []
        texts = {prompt for prompt in known if isinstance(prompt, str)}
        model, tokenizer = trainer.source.model(), trainer.source.tokenizer()
        prompts = held_out_prompts(model, tokenizer, args.eval_num_prompts, exclude=texts)
    else:
        prompts = read_prompts(origin)[: args.eval_num_prompts]
    ids = prompt_ids(trainer.processing_class, prompts)
    require_room(trainer.model, prompts, ids, args.eval_tokens)
    return list(prompts), []


def prompts_with_room(args: DataArguments, trainer: FDPOTrainer) -> tuple[list[Prompt], list[str]]:
    """Returns the prompts of the held-out pairs that have room for a completion, and a line."""
    from fdpo.llm.generation.conversations import distinct_prompts
    from fdpo.llm.generation.tokens import context_length, has_room, prompt_ids

    if trainer.eval_dataset is None:
        return [], ["no pairs are held out, so no prompts are sampled before and after"]
    if {"image", "images"} & set(trainer.eval_dataset.column_names):
        return [], ["held-out prompts with images are not sampled"]
    prompts = distinct_prompts(trainer.eval_dataset)
    ids = prompt_ids(trainer.processing_class, prompts)
    room = [has_room(trainer.model, tokens, args.eval_tokens) for tokens in ids]
    fitting = [prompt for prompt, fits in zip(prompts, room, strict=True) if fits]
    limit = f"--eval_tokens {args.eval_tokens} in the context of {context_length(trainer.model)}"
    if not fitting:
        shortest = min(map(len, ids))
        raise ValueError(
            f"no held-out prompt leaves room for {limit}, the shortest has {shortest} tokens: "
            "lower --eval_tokens, name other --eval_prompts, or sample none: --eval_num_prompts 0"
        )
    left_out = len(prompts) - len(fitting)
    line = f"{left_out:,} of {len(prompts):,} held-out prompts leave no room for {limit}"
    return fitting[: args.eval_num_prompts], [f"{line}: not sampled"] if left_out else []


def describe_data(trainer: FDPOTrainer, data: DatasetDict, counts: Counter[str]) -> list[str]:
    """Returns the counts of pairs made, dropped and trained on, and a line on what TRL changed."""
    from fdpo.llm.data import count_shortened_prompts

    prepared = [trainer.train_dataset, trainer.eval_dataset]
    train, test = (0 if dataset is None else len(dataset) for dataset in prepared)
    rows = sum(map(len, data.values()))
    counts = counts + Counter(prompts_too_long=rows - train - test)
    lines = [f"{preferences.describe(counts)}; {train:,} to train on, {test:,} held out"]
    if counts["prompts_too_long"]:
        lines.append(
            f"prompts that fill --max_length {trainer.args.max_length:,} are too long; "
            "--truncation_mode keep_end shortens them"
        )
    datasets = [dataset for dataset in prepared if dataset is not None]
    shortened = sum(count_shortened_prompts(d, trainer.processing_class) for d in datasets)
    if shortened:
        lines.append(
            f"{shortened:,} of {rows:,} prompts lose their last tokens, which merge with the "
            "completion's: end prompts on a token boundary to avoid it"
        )
    return lines


def compare_samples(
    args: DataArguments, trainer: FDPOTrainer, prompts: list[Prompt], folder: Path
) -> dict[str, Any]:
    """Samples policy and reference, writes and prints the comparison, and returns its metrics."""
    from fdpo.llm.evaluate import HELD_OUT_SEED, SamplingConfig, compare
    from fdpo.scorers import get_scorer

    print(f"sampling {len(prompts)} held-out prompts before and after", flush=True)
    comparison = compare(
        trainer.accelerator.unwrap_model(trainer.model),
        trainer.source.model(trainer.accelerator.device),
        trainer.processing_class,
        prompts,
        {Path(name).name: get_scorer(name) for name in args.scorers},
        SamplingConfig(args.eval_samples, args.eval_tokens, seed=HELD_OUT_SEED),
        divergence=trainer.divergence,
        reference_cache=trainer.args.reference_cache,
    )
    runs.write_text(folder / "samples.md", comparison.samples())
    runs.write_jsonl(folder / "samples.jsonl", comparison.rows)
    print(comparison.samples(3), comparison.table(), sep="\n")
    return comparison.metrics() | {"warnings": comparison.warnings()}


def measure_pairs(trainer: FDPOTrainer, folder: Path) -> dict[str, float]:
    """Measures accuracy and calibration on the held-out pairs, and writes their margins."""
    from fdpo.estimators.calibration import calibration

    margins, prompts = trainer.held_out_margins()
    if trainer.is_world_process_zero():
        pairs = zip(prompts, margins.tolist(), strict=True)
        rows = [{"prompt": prompt, "margin": margin} for prompt, margin in pairs]
        runs.write_jsonl(folder / "held_out_pairs.jsonl", rows)
    return calibration(margins, prompts).metrics("pairs_")


def set_up(
    args: DataArguments, training: TrainConfig, model: PolicyArguments
) -> tuple[FDPOTrainer, list[Prompt], list[str]]:
    """Loads data and models, and checks everything that the evaluation will need.

    Returns:
        The trainer, the prompts to compare on, and lines that describe the data.
    """
    from fdpo.llm.generation.completions import require_scores
    from fdpo.scorers import get_scorer

    scorers = [get_scorer(name) for name in args.scorers]  # a wrong name fails before all else
    source = model_source(training, model)
    source.config()  # so does a wrong model, before its data are made
    data, counts = load_pairs(args, source)
    trainer = make_trainer(args, training, model, source, data)
    prompts, lines = select_prompts(args, data, trainer)
    require_scores(scorers, prompts)
    return trainer, prompts, [*describe_data(trainer, data, counts), *lines]


def report(
    run: Run, args: DataArguments, trainer: FDPOTrainer, prompts: list[Prompt]
) -> dict[str, Any]:
    """Writes the card and measures the policy on held-out pairs and prompts; returns metrics."""
    metrics: dict[str, Any] = {}
    with run.reporting("model card"):
        trainer.create_model_card(run.folder.name)
    if trainer.eval_dataset is not None:
        with run.reporting("metrics of held-out pairs"):
            metrics |= measure_pairs(trainer, run.folder)
    if is_main_process() and prompts:
        with run.reporting("comparison of samples"):
            metrics |= compare_samples(args, trainer, prompts, run.folder)
    return metrics


def train(run: Run, args: DataArguments, training: TrainConfig, model: PolicyArguments) -> None:
    """Trains, saves and measures the policy of a run."""
    from fdpo.llm.callbacks import StopOnInterrupt, TrainingClock

    trainer, prompts, lines = set_up(args, training, model)
    run.start()
    if is_main_process():
        print(*lines, sep="\n")
    trainer.add_callback(interrupt := StopOnInterrupt())
    trainer.add_callback(clock := TrainingClock())
    trainer.train(resume_from_checkpoint=run.checkpoint)
    run.exit_if(interrupt.stopped, trainer.state.global_step)
    trainer.save_model(str(run.folder), _internal_call=True)  # uploaded at the end
    metrics = {"steps": trainer.state.global_step, "train_seconds": clock.seconds}
    metrics |= report(run, args, trainer, prompts)
    if is_main_process():
        runs.write_jsonl(run.folder / runs.LOG, trainer.state.log_history)
    run.finish(metrics)
    if training.push_to_hub:
        with run.reporting("upload"):
            trainer.push_to_hub(dataset_name=args.dataset_name)
    trainer.end()


def main() -> None:
    quiet_libraries()
    args, training, model = arguments.parse(
        TYPES,
        program="train.py",
        presets="train_dpo",
        description=(__doc__ or "").split("\n")[0],
        common=COMMON,
        aliases=ALIASES,
        resets=RESETS,
    )
    options = arguments.resolved(args, training, model)
    resume = training.resume_from_checkpoint
    with Run("train.py", training.output_dir, options, resume=resume, aliases=ALIASES) as run:
        train(run, args, training, model)


if __name__ == "__main__":
    main()
