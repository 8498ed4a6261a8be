"""Trains a sentiment classifier on labelled reviews: from scratch, or from a checkpoint.

The scorer of ``pretrained/imdb-sentiment`` (19 minutes on two shared cores):

    python dataset/train_scorer.py --dataset train_20k.jsonl.gz
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from transformers import TrainingArguments

from fdpo.cli import arguments
from fdpo.cli.program import Run
from fdpo.cli.quiet import quiet_libraries
from fdpo.runs.distributed import is_main_process
from fdpo.runs.folder import require_folder

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

LABELS = ("negative", "positive")
LONG, SHORT = 256, (16, 64)
"""Tokens of the long piece of a review, and the range of those of the short one."""
COMMON = (
    "learning_rate", "num_train_epochs", "per_device_train_batch_size", "warmup_steps",
    "weight_decay", "save_strategy", "logging_steps", "seed", "bf16", "use_cpu",
    "resume_from_checkpoint", "report_to",
)  # fmt: skip


@dataclass
class ReviewArguments:
    """Reviews and model."""

    dataset: str = field(
        default="stanfordnlp/imdb",
        metadata={"help": "reviews: hub id or file with columns text and label (1: positive)"},
    )
    model: str | None = field(
        default=None, metadata={"help": "hub id or folder to start from; default: from scratch"}
    )
    export: str | None = field(
        default=None, metadata={"help": "folder to write the finished model to, in 16 bit"}
    )
    held_out: int = field(default=2000, metadata={"help": "reviews held out for metrics"})
    vocab_size: int = field(default=8192, metadata={"help": "from scratch: tokens"})
    width: int = field(default=128, metadata={"help": "from scratch: width of the model"})
    layers: int = field(default=2, metadata={"help": "from scratch: transformer blocks"})


@dataclass
class ScorerConfig(TrainingArguments):
    """Training."""

    output_dir: str = field(default="runs/imdb-sentiment", metadata={"help": "run folder"})
    learning_rate: float = field(default=3e-3, metadata={"help": "peak learning rate of AdamW"})
    num_train_epochs: float = field(default=2.0, metadata={"help": "passes over the reviews"})
    per_device_train_batch_size: int = field(default=32, metadata={"help": "pieces per process"})
    lr_scheduler_type: str = field(default="cosine", metadata={"help": "learning rate schedule"})
    warmup_steps: float = field(default=50, metadata={"help": "steps, or a share below 1"})
    weight_decay: float = field(default=0.1, metadata={"help": "of AdamW"})
    train_sampling_strategy: str = field(
        default="group_by_length", metadata={"help": "batches of equal length need no padding"}
    )
    seed: int = field(default=0, metadata={"help": "of weights, pieces and order"})


def pieces(
    texts: Sequence[str], labels: Sequence[int], tokenizer: PreTrainedTokenizerBase, seed: int
) -> Dataset:
    """Cuts a long and a short piece from each review, because it will score short texts."""
    from datasets import Dataset

    generator = random.Random(seed)
    rows = []
    for text, label in zip(texts, labels, strict=True):
        ids = tokenizer(text)["input_ids"]
        for size in (LONG, generator.randint(*SHORT)):
            start = generator.randint(0, max(0, len(ids) - size))
            rows.append({"input_ids": ids[start : start + size], "labels": label})
    return Dataset.from_list(rows)


def scorer_metrics(folder: str, texts: Sequence[str], labels: Sequence[int]) -> dict[str, float]:
    """Measures accuracy and calibration of the finished scorer.

    The calibration error is the mean distance between confidence and accuracy over 15 bins of equal
    width, weighted by the reviews in them.
    """
    import torch

    from fdpo.scorers import get_scorer

    log_odds = torch.tensor(get_scorer(folder)([""] * len(texts), texts), dtype=torch.float64)
    p, label = log_odds.sigmoid(), torch.tensor(labels, dtype=torch.float64)
    right = ((p > 0.5) == label.bool()).double()
    confidence = torch.maximum(p, 1 - p)
    bins = (confidence * 15).long().clamp(max=14)
    gap = torch.zeros(15, dtype=torch.float64).index_add(0, bins, confidence - right)
    return {
        "texts": len(texts),
        "accuracy": right.mean().item(),
        "nll": torch.nn.functional.binary_cross_entropy(p, label).item(),
        "brier": (p - label).square().mean().item(),
        "calibration_error": (gap.abs().sum() / len(texts)).item(),
    }


def load_classifier(args: ReviewArguments, texts: list[str], seed: int) -> tuple[Any, Any]:
    """Loads the tokenizer and the classifier, or makes both from scratch."""
    from transformers import AutoModelForSequenceClassification

    from fdpo.llm.models import load_tokenizer
    from fdpo.tasks import imdb

    if args.model is None:
        tokenizer = imdb.train_tokenizer(texts, args.vocab_size, lowercase=True)
        return tokenizer, imdb.classifier_from_scratch(
            tokenizer, LABELS, args.width, args.layers, seed
        )
    model = AutoModelForSequenceClassification.from_pretrained(
        args.model, num_labels=2, dtype="float32", use_safetensors=True, trust_remote_code=False
    )
    return load_tokenizer(args.model), model


def train(run: Run, args: ReviewArguments, training: ScorerConfig) -> None:
    """Trains, saves and measures the classifier of a run."""
    from transformers import DataCollatorWithPadding

    from fdpo.llm.checkpoints import ResumableTrainer
    from fdpo.programs.training import train_to_end
    from fdpo.tasks import imdb

    require_folder(args.export or training.output_dir, "export")
    splits = imdb.load_texts(args.dataset, args.held_out)
    if set(splits.labels.values()) != {0, 1}:
        raise ValueError(f"--dataset {args.dataset}: labels must be 0 and 1")
    tokenizer, model = load_classifier(args, splits.train, training.seed)
    run.start()
    if is_main_process():
        print(f"{model.num_parameters():,} parameters, {len(splits.train):,} reviews to train on")
    labels = [splits.labels[text] for text in splits.train]
    trainer = ResumableTrainer(
        model=model,
        args=training,
        data_collator=DataCollatorWithPadding(tokenizer),
        train_dataset=pieces(splits.train, labels, tokenizer, training.seed),
        processing_class=tokenizer,
    )
    folder = args.export or training.output_dir
    held_out = [splits.labels[text] for text in splits.held_out]
    train_to_end(run, trainer, folder, lambda: scorer_metrics(folder, splits.held_out, held_out))


def main() -> None:
    quiet_libraries()
    args, training = arguments.parse(
        (ReviewArguments, ScorerConfig),
        program="train_scorer.py",
        presets="dataset",
        description=(__doc__ or "").split("\n")[0],
        common=COMMON,
    )
    options = arguments.resolved(args, training)
    resume = training.resume_from_checkpoint
    with Run("train_scorer.py", training.output_dir, options, resume=resume) as run:
        train(run, args, training)


if __name__ == "__main__":
    main()
