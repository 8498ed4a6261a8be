"""Trains a causal language model on text: from scratch with its own tokenizer, or from any checkpoint.

The model of ``pretrained/imdb-gpt2`` (hours on two cores):

    python train_dpo/sft.py --config train_dpo/configs/pretrain_imdb.yaml --dataset train_20k.jsonl.gz

Fine-tuning a GPT-2 from the hub or a folder on the same text:

    python train_dpo/sft.py --model openai-community/gpt2 --dataset stanfordnlp/imdb
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datasets import load_dataset
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DataCollatorForLanguageModeling,
    Trainer,
    TrainingArguments,
)
from trl import TrlParser

from fdpo.llm import pretraining


@dataclass
class TextArguments:
    dataset: str = field(default="stanfordnlp/imdb")
    model: str | None = field(default=None)
    held_out: int = field(default=2000)
    vocab_size: int = field(default=3584)
    width: int = field(default=192)
    layers: int = field(default=5)
    heads: int = field(default=6)
    context: int = field(default=256)


def main() -> None:
    own, training = TrlParser([TextArguments, TrainingArguments]).parse_args_and_config()
    rows = load_dataset("json", data_files=own.dataset, split="train")
    train, held_out = pretraining.split_by_hash(map(pretraining.clean_review, rows["text"]), own.held_out)
    if own.model is None:
        tokenizer = pretraining.train_tokenizer(train, own.vocab_size)
        model = pretraining.gpt2_from_scratch(tokenizer, own.width, own.layers, own.heads, own.context)
    else:
        tokenizer = AutoTokenizer.from_pretrained(own.model)
        model = AutoModelForCausalLM.from_pretrained(own.model, dtype="float32")
    print(f"{model.num_parameters():,} parameters, {len(train)} texts to train on")
    trainer = Trainer(
        model=model,
        args=training,
        data_collator=DataCollatorForLanguageModeling(tokenizer, mlm=False),
        train_dataset=pretraining.blocks(train, tokenizer, own.context),
        eval_dataset=pretraining.blocks(held_out[500:700], tokenizer, own.context),
        processing_class=tokenizer,
    )
    trainer.train(resume_from_checkpoint=training.resume_from_checkpoint)
    trainer.save_model()
    print(pretraining.language_model_figures(trainer.model, tokenizer, held_out[:500]))


if __name__ == "__main__":
    main()
