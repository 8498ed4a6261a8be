r"""Bits per byte of held-out reviews: the embedded language model, a 5-gram model and xz.

    python -m benchmarks.language_model --dataset train_20k.jsonl.gz

All three see the same text, the first 500 held-out reviews. The 5-gram model is
interpolated Kneser-Ney (Ney et al., 1994) on the language model's tokens and training text. With
:math:`c` the counts of the highest order, and below it the number of distinct preceding tokens,

.. math:: p(w \mid h) = \frac{\max(c(hw) - D, 0) + D N_{1+}(h\cdot)\, p(w \mid h')}{c(h)},

:math:`h'` the context without its first token and :math:`D = n_1/(n_1 + 2 n_2)` for each order.
"""

from __future__ import annotations

import lzma
import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from fdpo import runs
from fdpo.cli import arguments
from fdpo.llm.models import load_model, load_tokenizer
from fdpo.tasks import PRETRAINED, imdb

PROGRAM = "benchmarks.language_model"
Tokens = NDArray[np.int64]
ORDER, BITS = 5, 12  # five tokens below 4,096 fit one int64


@dataclass
class Arguments:
    """Comparison."""

    dataset: str = field(default="stanfordnlp/imdb", metadata={"help": "labelled reviews"})
    model: str = field(default=str(PRETRAINED / "imdb-gpt2"), metadata={"help": "folder"})
    output: str = field(default="", metadata={"help": "JSON file to write"})


class KneserNey:
    """An interpolated Kneser-Ney model of token ids."""

    def __init__(self, stream: Tokens, vocabulary: int) -> None:
        self.vocabulary = vocabulary
        keys, counts = np.unique(_grams(stream, ORDER), return_counts=True)
        self.tables = []
        for order in range(ORDER, 0, -1):
            contexts, first = np.unique(keys >> BITS, return_index=True)
            totals = np.add.reduceat(counts, first)
            types = np.diff(np.append(first, len(keys)))
            once, twice = (counts == 1).sum(), (counts == 2).sum()
            discount = once / (once + 2 * twice)
            self.tables.append((keys, counts, contexts, totals, types, discount))
            # Below the highest order, an n-gram counts once for every token that precedes it.
            keys, counts = np.unique(keys & ((1 << BITS * (order - 1)) - 1), return_counts=True)

    def probabilities(self, stream: Tokens) -> NDArray[np.float64]:
        """Returns the probability of each token of a stream but the first four."""
        keys = _grams(stream, ORDER)
        p = np.full(len(keys), 1 / self.vocabulary)
        for order in range(1, ORDER + 1):
            table, counts, contexts, totals, types, discount = self.tables[ORDER - order]
            gram = keys & ((1 << BITS * order) - 1)
            count, _ = _look_up(table, counts, gram)
            total, seen = _look_up(contexts, totals, gram >> BITS)
            number, _ = _look_up(contexts, types, gram >> BITS)
            known = np.maximum(count - discount, 0) + discount * number * p
            p = np.where(seen, known / np.maximum(total, 1), p)
        return p


def _grams(stream: Tokens, order: int) -> Tokens:
    size = len(stream) - order + 1
    keys = np.zeros(size, dtype=np.int64)
    for token in range(order):
        keys = (keys << BITS) | stream[token : token + size]
    return keys


def _look_up(keys: Tokens, values: Tokens, queries: Tokens) -> tuple[Tokens, NDArray[np.bool_]]:
    place = np.minimum(np.searchsorted(keys, queries), len(keys) - 1)
    is_known = keys[place] == queries
    return np.where(is_known, values[place], 0), is_known


def n_gram_bits(splits: imdb.Splits, model: str) -> float:
    """Returns the bits per byte of the 5-gram model on the test reviews, end tokens included."""
    tokenizer = load_tokenizer(model)
    if len(tokenizer) > 1 << BITS:
        raise ValueError(f"the tokenizer has {len(tokenizer)} tokens, at most {1 << BITS} fit")
    start = [tokenizer.bos_token_id] * (ORDER - 2)  # the tokenizer adds one more

    def stream(texts: list[str]) -> Tokens:
        ids = [start + tokenizer(t)["input_ids"] + [tokenizer.eos_token_id] for t in texts]
        return np.concatenate([np.array(row, dtype=np.int64) for row in ids])

    n_gram = KneserNey(stream(splits.train), len(tokenizer))
    nats = sum(-np.log(n_gram.probabilities(stream([t]))).sum() for t in splits.test)
    return float(nats) / math.log(2) / splits.test_bytes


def xz_bits(splits: imdb.Splits) -> float:
    """Returns the bits per byte of xz at its best compression, on the test reviews."""
    compressed = lzma.compress("\n".join(splits.test).encode(), preset=9 | lzma.PRESET_EXTREME)
    return 8 * len(compressed) / splits.test_bytes


def main() -> None:
    (args,) = arguments.parse((Arguments,), program=PROGRAM)
    with arguments.usage_errors(PROGRAM):
        splits = imdb.load_texts(args.dataset)
        model, tokenizer = load_model(args.model), load_tokenizer(args.model)
    metrics = imdb.language_model_metrics(model, tokenizer, splits.test)
    bits = {"model": metrics["bits_per_byte"], "5-gram": n_gram_bits(splits, args.model)}
    bits["xz"] = xz_bits(splits)
    print(f"perplexity {metrics['perplexity']:.2f} on {metrics['tokens']:,} tokens", end=" ")
    print(f"of {metrics['texts']} reviews")
    for name, value in bits.items():
        print(f"{name:8} {value:.3f} bits per byte")
    if args.output:
        runs.write_json(args.output, metrics | {f"bits_per_byte_{k}": v for k, v in bits.items()})


if __name__ == "__main__":
    main()
