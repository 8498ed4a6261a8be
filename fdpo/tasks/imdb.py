"""IMDb reviews, and small models on them from scratch: a language model and a classifier.

Models and tokenizers are ordinary transformers objects (a byte-level BPE
``PreTrainedTokenizerFast``, a ``GPT2LMHeadModel``, a ``ModernBertForSequenceClassification``),
saved and loaded with ``save_pretrained`` and ``from_pretrained``.
"""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from datasets import Dataset, load_dataset
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    ModernBertConfig,
    ModernBertForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from fdpo.llm.generation.tokens import context_length
from fdpo.preferences.prompts import clean_review
from fdpo.runs.hub import is_hub_id
from fdpo.runs.rows import read_rows

BOS, EOS, PAD = "<|startoftext|>", "<|endoftext|>", "<|pad|>"


@dataclass(frozen=True)
class Splits:
    """Distinct texts to train on, and held-out texts for the metrics of a model card.

    Arguments:
        train: The texts to train on.
        held_out: Texts that no model here is trained on.
        labels: The label of each text, where the source has them.
    """

    train: list[str]
    held_out: list[str]
    labels: dict[str, int]

    @property
    def test(self) -> list[str]:
        """The held-out texts that measure language models."""
        return self.held_out[:500]

    @property
    def dev(self) -> list[str]:
        """Further held-out texts, which measure language models in training."""
        return self.held_out[500:700]

    @property
    def test_bytes(self) -> int:
        """The size of :attr:`test` in UTF-8."""
        return sum(len(text.encode()) for text in self.test)


def load_texts(source: str, held_out: int = 2000) -> Splits:
    """Loads reviews from a hub id or a file of rows (``text``, and ``label`` if known), cleaned.

    The texts with the lowest SHA-256 are held out: the split depends on the texts alone, so that
    the language model and the scorer hold out the same ones.

    Raises:
        ValueError: If the source is missing, has no column ``text`` or too few texts, or nothing
            is held out.
    """
    if held_out < 1:
        raise ValueError(f"--held_out must be at least 1, not {held_out}: the metrics need texts")
    if Path(source).is_file():
        rows = read_rows(source)
    elif is_hub_id(source):
        rows = load_dataset(source, split="train")
    else:
        raise ValueError(f"--dataset {source}: no such file, and no hub id (owner/name)")
    if "text" not in rows[0]:
        raise ValueError(f"--dataset {source}: no column text; found {', '.join(rows[0])}")
    labels = {clean_review(row["text"]): row.get("label", -1) for row in rows}
    ranked = sorted(labels, key=lambda text: hashlib.sha256(text.encode()).digest())
    if len(ranked) <= held_out:
        raise ValueError(
            f"--dataset {source}: {len(ranked)} texts, of which {held_out} are held out"
        )
    return Splits(ranked[held_out:], ranked[:held_out], labels)


def train_tokenizer(
    texts: Iterable[str], vocab_size: int, lowercase: bool = False
) -> PreTrainedTokenizerFast:
    """Trains a byte-level BPE tokenizer that starts every text with a begin token."""
    tokenizer = Tokenizer(models.BPE())
    if lowercase:
        tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=[EOS, BOS, PAD],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=BOS, eos_token=EOS, pad_token=PAD
    )


def gpt2_from_scratch(
    tokenizer: PreTrainedTokenizerBase,
    width: int,
    layers: int,
    heads: int,
    context: int,
    seed: int = 0,
) -> GPT2LMHeadModel:
    """Returns an untrained GPT-2 without dropout for a tokenizer."""
    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=context,
        n_embd=width,
        n_layer=layers,
        n_head=heads,
        activation_function="gelu_pytorch_tanh",  # gelu_new's function, as one kernel
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return GPT2LMHeadModel(config)


def classifier_from_scratch(
    tokenizer: PreTrainedTokenizerBase,
    labels: Sequence[str],
    width: int,
    layers: int,
    seed: int = 0,
) -> ModernBertForSequenceClassification:
    """Returns an untrained ModernBERT classifier, which averages over tokens, for a tokenizer."""
    torch.manual_seed(seed)
    tokenizer.model_max_length = 512
    config = ModernBertConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=width // 32,
        max_position_embeddings=tokenizer.model_max_length,
        classifier_pooling="mean",
        embedding_dropout=0.1,
        mlp_dropout=0.1,
        classifier_dropout=0.1,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        cls_token_id=tokenizer.bos_token_id,
        sep_token_id=tokenizer.eos_token_id,
        id2label=dict(enumerate(labels)),
        label2id={label: index for index, label in enumerate(labels)},
    )
    return ModernBertForSequenceClassification(config)


def blocks(texts: Iterable[str], tokenizer: PreTrainedTokenizerBase, length: int) -> Dataset:
    """Tokenises texts, ends each with the end token, and cuts their concatenation into blocks."""
    from trl import pack_dataset  # only here: scorers need no TRL

    ids = [tokenizer(text)["input_ids"] + [tokenizer.eos_token_id] for text in texts]
    return pack_dataset(Dataset.from_dict({"input_ids": ids}), length, strategy="wrapped")


def save_in_16_bit(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: str | Path
) -> None:
    """Saves a model in fp16, which rounds weights of ordinary size less than bf16 does."""
    copy.deepcopy(model).half().save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@torch.no_grad()
def language_model_metrics(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]
) -> dict[str, float]:
    """Measures a causal language model on texts: perplexity per token and bits per byte.

    Each text counts with its end token, from its begin token (or, where the tokenizer has none,
    from its second token). Windows of the model's context overlap by half, so that every token but
    the first few has half a context or more before it. Bytes are those of UTF-8.
    """
    context = context_length(model) or 1024
    nats, tokens = 0.0, 0
    model.eval()
    for text in texts:
        ids = tokenizer(text)["input_ids"] + [tokenizer.eos_token_id]
        done = 1
        while done < len(ids):
            start = max(0, done - context // 2) if done > 1 else 0
            window = torch.tensor(ids[start : start + context], device=model.device)
            logits = model(window[None]).logits[0, :-1].float()
            losses = torch.nn.functional.cross_entropy(logits, window[1:], reduction="none")
            new = losses[done - start - 1 :]
            nats += new.double().sum().item()
            tokens += new.numel()
            done = start + len(window)
    size = sum(len(text.encode()) for text in texts)
    return {
        "texts": len(texts),
        "tokens": tokens,
        "perplexity": math.exp(nats / tokens),
        "bits_per_byte": nats / math.log(2) / size,
    }
