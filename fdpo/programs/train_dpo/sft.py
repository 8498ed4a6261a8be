"""Trains a causal language model on reviews: from scratch with its own tokenizer, or from another.

The model of ``pretrained/imdb-gpt2``, two epochs and then three more (its card has the times):

    python train_dpo/sft.py --config train_dpo/configs/pretrain_imdb.yaml --dataset FILE.jsonl.gz
    python train_dpo/sft.py --config train_dpo/configs/pretrain_imdb.yaml --dataset FILE.jsonl.gz \\
        --model runs/imdb-gpt2 --learning_rate 2e-3 --num_train_epochs 3 --seed 1 \\
        --output_dir runs/imdb-gpt2-more --export pretrained/imdb-gpt2

Fine-tuning a GPT-2 from the hub or a folder on the same text:

    python train_dpo/sft.py --model openai-community/gpt2 --dataset stanfordnlp/imdb
"""

from __future__ import annotations

from dataclasses import dataclass, field

from transformers import DataCollatorForLanguageModeling, Trainer, TrainingArguments

from fdpo import runs
from fdpo.cli import arguments
from fdpo.llm.models import load_model, load_tokenizer
from fdpo.tasks import imdb as pretraining

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
    held_out: int = field(default=2000, metadata={"help": "reviews kept for figures"})
    context: int = field(default=256, metadata={"help": "length of a training block, tokens"})
    vocab_size: int = field(default=3584, metadata={"help": "from scratch: tokens"})
    width: int = field(default=192, metadata={"help": "from scratch: width of the model"})
    layers: int = field(default=5, metadata={"help": "from scratch: transformer blocks"})
    heads: int = field(default=6, metadata={"help": "from scratch: attention heads"})


def main() -> None:
    own, training = arguments.parse(
        (TextArguments, TrainingArguments),
        program="sft.py",
        presets="train_dpo",
        description=(__doc__ or "").split("\n")[0],
        common=COMMON,
    )
    with arguments.usage_errors("sft.py"):
        checkpoint = runs.checkpoint(training.output_dir, training.resume_from_checkpoint)
        splits = pretraining.load_texts(own.dataset, own.held_out)
        if own.model is None:
            tokenizer = pretraining.train_tokenizer(splits.train, own.vocab_size)
            model = pretraining.gpt2_from_scratch(
                tokenizer, own.width, own.layers, own.heads, own.context, training.seed
            )
        else:
            tokenizer, model = load_tokenizer(own.model), load_model(own.model)
        options = arguments.resolved(own, training)
        runs.prepare(training.output_dir, options, resume=training.resume_from_checkpoint)
    print(f"{model.num_parameters():,} parameters, {len(splits.train):,} texts to train on")
    trainer = Trainer(
        model=model,
        args=training,
        data_collator=DataCollatorForLanguageModeling(tokenizer, mlm=False),
        train_dataset=pretraining.blocks(splits.train, tokenizer, own.context),
        eval_dataset=pretraining.blocks(splits.held_out[500:700], tokenizer, own.context),
        processing_class=tokenizer,
    )
    trainer.train(resume_from_checkpoint=checkpoint)
    if not trainer.is_world_process_zero():
        return
    folder = own.export or training.output_dir
    pretraining.save_in_16_bit(model, tokenizer, folder)
    figures = pretraining.language_model_figures(
        load_model(folder, training.device), tokenizer, splits.test
    )
    runs.write_json(f"{training.output_dir}/metrics.json", figures)
    print(", ".join(f"{name} {value:.5g}" for name, value in figures.items()))


if __name__ == "__main__":
    main()
