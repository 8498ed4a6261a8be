"""Trains a sentiment classifier on labelled reviews: from scratch, or from any checkpoint.

The scorer of ``pretrained/imdb-sentiment`` (minutes on two cores):

    python dataset/train_scorer.py --dataset train_20k.jsonl.gz
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from datasets import Dataset, load_dataset
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    PreTrainedTokenizerBase,
    Trainer,
    TrainingArguments,
)
from trl import TrlParser

from fdpo.llm import pretraining

LABELS = ("negative", "positive")
LONG, SHORT = 192, (16, 64)  # tokens


@dataclass
class ScorerArguments:
    dataset: str = field(default="stanfordnlp/imdb")
    model: str | None = field(default=None)
    held_out: int = field(default=2000)
    vocab_size: int = field(default=8192)
    width: int = field(default=128)
    layers: int = field(default=2)


def crops(
    texts: Sequence[str], labels: Sequence[int], tokenizer: PreTrainedTokenizerBase, seed: int
) -> Dataset:
    """Cuts a long and a short piece from each review, because what will be scored is short."""
    draw = random.Random(seed)
    rows = []
    for text, label in zip(texts, labels, strict=True):
        ids = tokenizer(text)["input_ids"]
        for size in (LONG, draw.randint(*SHORT)):
            start = draw.randint(0, max(0, len(ids) - size))
            rows.append({"input_ids": ids[start : start + size], "labels": label})
    return Dataset.from_list(rows)


def main() -> None:
    own, training = TrlParser([ScorerArguments, TrainingArguments]).parse_args_and_config()
    rows = load_dataset("json", data_files=own.dataset, split="train")
    label_of = {pretraining.clean_review(row["text"]): row["label"] for row in rows}
    train, held_out = pretraining.split_by_hash(label_of, own.held_out)
    torch.manual_seed(training.seed)
    tokenizer = pretraining.train_tokenizer(train, own.vocab_size, lowercase=True)
    tokenizer.model_max_length = 512
    model = pretraining.classifier_from_scratch(tokenizer, LABELS, own.width, own.layers)
    print(f"{model.num_parameters():,} parameters")
    dataset = crops(train, [label_of[t] for t in train], tokenizer, training.seed)
    trainer = Trainer(
        model=model,
        args=training,
        data_collator=DataCollatorWithPadding(tokenizer),
        train_dataset=dataset,
        processing_class=tokenizer,
    )
    trainer.train()
    trainer.save_model()
    model.eval()
    for length in (512, 64):
        right, n = 0, 0
        with torch.no_grad():
            for i in range(0, len(held_out), 32):
                batch = held_out[i : i + 32]
                inputs = tokenizer(batch, truncation=True, max_length=length, padding=True, return_tensors="pt")
                inputs.pop("token_type_ids", None)
                p = model(**inputs).logits.argmax(1)
                right += sum(int(a == label_of[t]) for a, t in zip(p.tolist(), batch))
                n += len(batch)
        print(length, right / n)


if __name__ == "__main__":
    main()
