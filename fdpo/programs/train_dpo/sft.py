"""Trains a causal language model on reviews: from scratch with a new tokenizer, or from a model.

The model of ``pretrained/imdb-gpt2``, two epochs and then three more (its card has the times):

    python train_dpo/sft.py --config pretrain_imdb --dataset FILE.jsonl.gz
    python train_dpo/sft.py --config pretrain_imdb --dataset FILE.jsonl.gz \\
        --model runs/imdb-gpt2 --learning_rate 2e-3 --num_train_epochs 3 --seed 1 \\
        --output_dir runs/imdb-gpt2-more --export pretrained/imdb-gpt2

Fine-tuning a GPT-2 from the hub or a folder on the same text:

    python train_dpo/sft.py --model openai-community/gpt2 --dataset stanfordnlp/imdb
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from transformers import TrainingArguments

from fdpo.cli import arguments
from fdpo.cli.program import Run
from fdpo.cli.quiet import quiet_libraries
from fdpo.runs.distributed import is_main_process
from fdpo.runs.folder import require_folder

COMMON = (
    "output_dir", "learning_rate", "num_train_epochs", "max_steps", "per_device_train_batch_size",
    "gradient_accumulation_steps", "warmup_steps", "weight_decay", "save_steps", "eval_strategy",
    "logging_steps", "seed", "bf16", "use_cpu", "resume_from_checkpoint", "report_to",
)  # fmt: skip


@dataclass
class TextArguments:
    """Text and model."""

    dataset: str = field(
        default="stanfordnlp/imdb",
        metadata={"help": "reviews: hub id, or JSONL(.gz), Parquet or CSV file with a column text"},
    )
    model: str | None = field(
        default=None, metadata={"help": "hub id or folder to start from; default: from scratch"}
    )
    export: str | None = field(
        default=None, metadata={"help": "folder to write the finished model to, in 16 bit"}
    )
    held_out: int = field(default=2000, metadata={"help": "reviews held out for metrics"})
    context: int = field(default=256, metadata={"help": "length of a training block, tokens"})
    vocab_size: int = field(default=3584, metadata={"help": "from scratch: tokens"})
    width: int = field(default=192, metadata={"help": "from scratch: width of the model"})
    layers: int = field(default=5, metadata={"help": "from scratch: transformer blocks"})
    heads: int = field(default=6, metadata={"help": "from scratch: attention heads"})


def load_language_model(args: TextArguments, texts: list[str], seed: int) -> tuple[Any, Any]:
    """Loads the tokenizer and the model, or makes both from scratch."""
    from fdpo.llm.models import load_model, load_tokenizer
    from fdpo.tasks import imdb

    if args.model is not None:
        return load_tokenizer(args.model), load_model(args.model)
    tokenizer = imdb.train_tokenizer(texts, args.vocab_size)
    model = imdb.gpt2_from_scratch(
        tokenizer, args.width, args.layers, args.heads, args.context, seed
    )
    return tokenizer, model


def train(run: Run, args: TextArguments, training: TrainingArguments) -> None:
    """Trains, saves and measures the model of a run."""
    from transformers import DataCollatorForLanguageModeling

    from fdpo.llm.checkpoints import ResumableTrainer
    from fdpo.llm.generation.tokens import context_length
    from fdpo.llm.models import load_model
    from fdpo.programs.training import train_to_end
    from fdpo.tasks import imdb

    require_folder(args.export or training.output_dir, "export")
    splits = imdb.load_texts(args.dataset, args.held_out)
    tokenizer, model = load_language_model(args, splits.train, training.seed)
    if args.context > (context := context_length(model) or args.context):
        raise ValueError(f"--context {args.context}: the model takes at most {context} tokens")
    if training.eval_strategy != "no" and not splits.dev:
        raise ValueError("--eval_strategy: needs more than 500 texts, --held_out 501 or above")
    imdb.language_model_metrics(model, tokenizer, [max(splits.test, key=len)])  # it can be measured
    run.start()
    if is_main_process():
        print(f"{model.num_parameters():,} parameters, {len(splits.train):,} texts to train on")
    trainer = ResumableTrainer(
        model=model,
        args=training,
        data_collator=DataCollatorForLanguageModeling(tokenizer, mlm=False),
        train_dataset=imdb.blocks(splits.train, tokenizer, args.context),
        eval_dataset=imdb.blocks(splits.dev, tokenizer, args.context),
        processing_class=tokenizer,
    )
    folder = args.export or training.output_dir

    def measure() -> dict[str, float]:
        trained = load_model(folder, training.device)
        return imdb.language_model_metrics(trained, tokenizer, splits.test)

    train_to_end(run, trainer, folder, measure)


def main() -> None:
    quiet_libraries()
    args, training = arguments.parse(
        (TextArguments, TrainingArguments),
        program="sft.py",
        presets="train_dpo",
        description=(__doc__ or "").split("\n")[0],
        common=COMMON,
    )
    options = arguments.resolved(args, training)
    resume = training.resume_from_checkpoint
    with Run("sft.py", training.output_dir, options, resume=resume) as run:
        train(run, args, training)


if __name__ == "__main__":
    main()
