"""Trains a language model on preference pairs with any f-divergence, and shows what it did.

    python train_dpo/train.py --loss alpha --alpha 0.5

With no arguments it trains the embedded IMDb model on pairs that are generated and scored on first
use and kept. ``--model`` and ``--dataset`` take hub ids, folders and files; ``--config`` a preset.
"""

from __future__ import annotations

import sys
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datasets import DatasetDict
from transformers import ProgressCallback
from trl import ModelConfig, get_peft_config, get_quantization_config

from fdpo import preferences, runs
from fdpo.cli import arguments
from fdpo.estimators.calibration import calibration
from fdpo.llm.callbacks import BriefProgress, Seconds, StopOnInterrupt
from fdpo.llm.config import FDPOConfig
from fdpo.llm.data import load_preferences, require_room
from fdpo.llm.evaluate import HELD_OUT_SEED, SamplingConfig, compare, held_out_prompts
from fdpo.llm.models import fitting_length, load_model, load_tokenizer
from fdpo.llm.trainer import FDPOTrainer
from fdpo.losses.config import RESETS
from fdpo.preferences.prompts import read_prompts
from fdpo.runs.distributed import run_first
from fdpo.scorers import get_scorer
from fdpo.tasks import COMMANDS, PRETRAINED

MODEL, SCORER = PRETRAINED / "imdb-gpt2", PRETRAINED / "imdb-sentiment"
COMMON = (
    "model_name_or_path", "use_peft", "lora_r", "lora_alpha", "dtype", "output_dir",
    "learning_rate", "lr_scheduler_type", "num_train_epochs", "max_steps",
    "per_device_train_batch_size", "gradient_accumulation_steps", "max_length",
    "precompute_ref_log_probs", "eval_strategy", "save_steps", "logging_steps", "seed", "bf16",
    "gradient_checkpointing", "use_cpu", "resume_from_checkpoint", "report_to", "push_to_hub",
)  # fmt: skip


@dataclass
class DataArguments(preferences.PairingConfig):
    """Data and evaluation."""

    dataset_name: str | None = field(
        default=None,
        metadata={"help": "pairs or scored groups: hub id, file or folder; default: made here"},
    )
    dataset_train_split: str = field(default="train", metadata={"help": "split to train on"})
    dataset_test_split: str = field(default="test", metadata={"help": "split to hold out"})
    test_share: float = field(
        default=0.1, metadata={"help": "share of prompts held out where there is no such split"}
    )
    eval_prompts: str | None = field(
        default=None,
        metadata={
            "help": "openings to compare on: a .txt file with one a line, or model: its own; "
            "default: the held-out prompts of --dataset, else model"
        },
    )
    eval_openings: int = field(
        default=200, metadata={"help": "held-out openings to compare on before and after; 0: none"}
    )
    eval_samples: int = field(default=4, metadata={"help": "samples of each opening"})
    eval_tokens: int = field(default=48, metadata={"help": "longest sample, tokens"})
    scorers: list[str] = field(
        default_factory=lambda: [str(SCORER), "vader"],
        metadata={"help": "rewards to compare: classifiers, vader, package.module:function"},
    )


@dataclass
class TrainConfig(FDPOConfig):
    """f-DPO."""

    output_dir: str | None = field(
        default=None, metadata={"help": "run folder; default: runs/train_dpo-LOSS"}
    )
    learning_rate: float = field(default=2e-4, metadata={"help": "peak learning rate of AdamW"})
    num_train_epochs: float = field(default=1.0, metadata={"help": "passes over the pairs"})
    per_device_train_batch_size: int = field(default=16, metadata={"help": "pairs per process"})
    warmup_steps: float = field(default=0.1, metadata={"help": "steps, or a share below 1"})
    save_steps: float = field(
        default=0.25, metadata={"help": "checkpoint: steps, or a share below 1"}
    )
    save_total_limit: int | None = field(default=1, metadata={"help": "checkpoints to keep"})

    def __post_init__(self) -> None:
        if self.output_dir is None:
            name = self.loss if self.alpha is None else f"{self.loss}-{self.alpha:g}"
            self.output_dir = "runs/train_dpo-" + runs.file_name(name)
        super().__post_init__()


@dataclass
class PolicyArguments(ModelConfig):
    """Model."""

    model_name_or_path: str | None = field(
        default=str(MODEL), metadata={"help": "policy and reference: hub id or folder"}
    )


TYPES = (DataArguments, TrainConfig, PolicyArguments)
ALIASES = {"dataset": "dataset_name", "model": "model_name_or_path"}


def default_groups(model: str) -> str:
    """Returns the file of the model's own scored completions; dataset/main.py makes it."""
    folder = Path("runs") / f"dataset-{Path(model).name}"
    command = [sys.executable, str(COMMANDS / "dataset/main.py"), "--model", model]
    run_first([*command, "--output_dir", str(folder)], target=folder / "README.md")
    return str(folder / "groups.jsonl")


def load(own: DataArguments, model: str) -> tuple[DatasetDict, str]:
    """Loads the pairs, or makes them on first use, and says what was made and dropped."""
    data, counts = load_preferences(
        own.dataset_name or default_groups(model),
        own,
        train_split=own.dataset_train_split,
        test_split=own.dataset_test_split,
        test_share=own.test_share,
    )
    sizes = f"{len(data['train']):,} to train on, {len(data['test']):,} held out"
    return data, f"{preferences.describe(counts)}; {sizes}"


def make_trainer(
    own: DataArguments, training: TrainConfig, model: ModelConfig, data: DatasetDict
) -> FDPOTrainer:
    """Makes the trainer as TRL's own script does, after checking that the prompts fit."""
    name = model.model_name_or_path
    training.model_init_kwargs = {
        "revision": model.model_revision,
        "attn_implementation": model.attn_implementation,
        "dtype": model.dtype,
        "use_safetensors": True,
        **(training.model_init_kwargs or {}),
    }
    tokenizer = load_tokenizer(name, model.model_revision)
    training.max_length = fitting_length(name, training.max_length)
    require_room(data["train"], tokenizer, training.max_length)
    trainer = FDPOTrainer(
        name,
        training,
        train_dataset=data["train"],
        eval_dataset=data["test"] if len(data["test"]) else None,
        processing_class=tokenizer,
        peft_config=get_peft_config(model),
        quantization_config=get_quantization_config(model),
        dataset_name=own.dataset_name,
    )
    trainer.remove_callback(ProgressCallback)
    trainer.add_callback(BriefProgress())
    return trainer


def openings(own: DataArguments, data: DatasetDict, model: str) -> list[str]:
    """Returns the held-out openings to compare on."""
    source = own.eval_prompts or ("data" if own.dataset_name else "model")
    if source == "model":
        known = set(data["train"]["prompt"]) if "prompt" in data["train"].column_names else set()
        language_model, tokenizer = load_model(model), load_tokenizer(model)
        return held_out_prompts(language_model, tokenizer, own.eval_openings, exclude=known)
    if source != "data":
        return read_prompts(source)[: own.eval_openings]
    prompts = data["test"]["prompt"] if "prompt" in data["test"].column_names else []
    return list(dict.fromkeys(p for p in prompts if isinstance(p, str)))[: own.eval_openings]


def report(
    own: DataArguments,
    trainer: FDPOTrainer,
    reference: str,
    held_out: list[str],
    folder: Path,
    seconds: float,
) -> None:
    """Compares the policy with its reference and writes what a reader would look at."""
    metrics: dict[str, Any] = {"steps": trainer.state.global_step, "train_seconds": seconds}
    if trainer.eval_dataset is not None:
        margins, prompts = trainer.held_out_margins()
        metrics |= calibration(margins, prompts).metrics("pairs_")
    if not trainer.is_world_process_zero():
        return
    if trainer.eval_dataset is not None:
        both = zip(prompts, margins.tolist(), strict=True)
        rows = [{"prompt": prompt, "margin": margin} for prompt, margin in both]
        runs.write_jsonl(folder / "held_out_pairs.jsonl", rows)
    if held_out:
        print(f"sampling {len(held_out)} held-out openings before and after", flush=True)
        comparison = compare(
            trainer.accelerator.unwrap_model(trainer.model),
            load_model(reference, trainer.accelerator.device),
            trainer.processing_class,
            held_out,
            {Path(name).name: get_scorer(name) for name in own.scorers},
            SamplingConfig(own.eval_samples, own.eval_tokens, seed=HELD_OUT_SEED),
            divergence=trainer.divergence,
            reference_cache=trainer.args.reference_cache,
        )
        metrics |= comparison.metrics() | {"warnings": comparison.warnings()}
        runs.write_text(folder / "samples.md", comparison.samples())
        runs.write_jsonl(folder / "samples.jsonl", comparison.rows)
        print(comparison.samples(3), comparison.table(), sep="\n")
    runs.write_jsonl(folder / "log.jsonl", trainer.state.log_history)
    runs.write_json(folder / "metrics.json", metrics)
    print(f"run folder: {folder}")


def main() -> None:
    # TRL sets it under the name that transformers is about to drop.
    warnings.filterwarnings("ignore", ".*gradient_checkpointing", FutureWarning)
    own, training, model = arguments.parse(
        TYPES,
        program="train.py",
        presets="train_dpo",
        description=(__doc__ or "").split("\n")[0],
        common=COMMON,
        aliases=ALIASES,
        resets=RESETS,
    )
    with arguments.usage_errors("train.py"):
        resume = training.resume_from_checkpoint
        checkpoint = runs.checkpoint(training.output_dir, resume)
        options = arguments.resolved(own, training, model)
        runs.require_free(training.output_dir, options, resume=resume)
        for scorer in own.scorers:
            get_scorer(scorer)
        data, counts = load(own, model.model_name_or_path)
        trainer = make_trainer(own, training, model, data)
        held_out = openings(own, data, model.model_name_or_path)
        folder = runs.prepare(training.output_dir, options, resume=resume)
    print(counts)
    trainer.add_callback(interrupt := StopOnInterrupt())
    trainer.add_callback(clock := Seconds())
    with runs.recording_nonfinite(folder):
        trainer.train(resume_from_checkpoint=checkpoint)
    if interrupt.stopped:
        print(f"stopped at step {trainer.state.global_step}; --resume_from_checkpoint last goes on")
        sys.exit(130)
    trainer.save_model()
    trainer.create_model_card(folder.name)
    report(own, trainer, model.model_name_or_path, held_out, folder, clock.seconds)
    if training.push_to_hub:
        trainer.push_to_hub(dataset_name=own.dataset_name)
    trainer.end()


if __name__ == "__main__":
    main()
