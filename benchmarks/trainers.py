"""Text trainers side by side: TRL's DPOTrainer and fdpo's, of one model on one set of pairs.

Everything else is equal: the batch size, the optimiser, the learning rate and the longest text.
Neither saves checkpoints or recomputes activations, and neither has dropout.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import torch
import transformers
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode, flop_registry
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GPT2Tokenizer,
    PrinterCallback,
    TrainerCallback,
    set_seed,
)
from trl import DPOConfig, DPOTrainer

from benchmarks.comparison import (
    flat_gradient,
    matrix_rate,
    now,
    peak_memory,
    relative_differences,
)
from fdpo import preferences
from fdpo.llm import FDPOConfig, FDPOTrainer
from fdpo.runs.rows import read_rows

SIZES = {"2.6M": (48, 4, 4), "25M": (320, 8, 8), "124M": (768, 12, 12)}  # width, layers, heads
WARMUP = 1  # updates before the clock starts
COUNTED = 2  # updates whose FLOP are counted
PRECOMPUTED, CACHED = ", precomputed", ", reference cached"
SIDES = ("trl", "trl" + PRECOMPUTED, "fdpo", "fdpo" + CACHED)
DEFAULTS = SIDES[0], SIDES[2]
PAIRS = "pairs.jsonl"
ATTENTION = "_scaled_dot_product_flash_attention"

BATCH = {"groups": 6, "dialogues": 4, "pairs": 4}
"""The pairs of an update, by data set."""
FILES = {
    "groups": "gpt2_imdb_scored/scored_500.jsonl.gz",
    "dialogues": "hh/helpful-base_test.jsonl.gz",
    "pairs": "gpt2_imdb_scored/scored_500.jsonl.gz",
}
RULES = {"groups": "top_bottom", "pairs": "best_worst"}


@dataclass(frozen=True)
class Setting:
    """The options that all sides share.

    Arguments:
        folder: The folder of the model and the pairs.
        batch: The pairs of an update.
        max_length: The longest prompt with a completion, tokens.
        bf16: Whether to train in bf16 instead of fp32.
    """

    folder: Path
    batch: int
    max_length: int = 512
    bf16: bool = False


def load_pairs(data: str, data_root: str) -> list[preferences.Pair]:
    """Loads the pairs of a data set; scored groups become pairs by rank."""
    file = Path(data_root) / FILES[data]
    pairing = preferences.PairingConfig(rule=RULES[data]) if data in RULES else None
    return preferences.preferences_from_rows(read_rows(file), str(file), pairing)[0]


def prepare(
    setting: Setting, data_root: str, size: str, pairs: Sequence[preferences.Pair], updates: int
) -> None:
    """Writes an untrained GPT-2, its tokenizer, and the pairs of a number of updates."""
    needed = updates * setting.batch
    if len(pairs) < needed:
        raise ValueError(f"{len(pairs)} pairs are fewer than {updates} updates of {setting.batch}")
    set_seed(0)
    bpe = Path(data_root) / "gpt2_bpe"
    tokenizer = GPT2Tokenizer(str(bpe / "vocab.json"), str(bpe / "merges.txt"))
    width, layers, heads = SIZES[size]
    config = GPT2Config(n_embd=width, n_layer=layers, n_head=heads)
    GPT2LMHeadModel(config).save_pretrained(setting.folder)
    tokenizer.save_pretrained(setting.folder)
    preferences.write_pairs(setting.folder / PAIRS, pairs[:needed])


def make_trainer(setting: Setting, side: str, cache: Path, seed: int = 0, **options: Any) -> Any:
    """Returns the trainer of a side, for one epoch.

    Arguments:
        setting: The options that all sides share.
        side: One of :data:`SIDES`.
        cache: The folder of the cached reference of fdpo's trainer.
        seed: The seed of the order of pairs.
        **options: More options of the trainer's configuration.
    """
    datasets.disable_progress_bars()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    is_fdpo = side.startswith("fdpo")
    settings: dict[str, Any] = {
        "output_dir": str(cache / "run"), "per_device_train_batch_size": setting.batch,
        "num_train_epochs": 1, "max_length": setting.max_length, "learning_rate": 1e-4,
        "report_to": "none", "save_strategy": "no", "disable_tqdm": True, "logging_steps": 10_000,
        "precompute_ref_log_probs": side.endswith(PRECOMPUTED), "bf16": setting.bf16,
        "gradient_checkpointing": False, "seed": seed,
        **({"reference_cache": str(cache)} if is_fdpo else {}), **options,
    }  # fmt: skip
    rows = [pair.row() for pair in preferences.read_pairs(setting.folder / PAIRS)]
    trainer_class, config_class = (FDPOTrainer, FDPOConfig) if is_fdpo else (DPOTrainer, DPOConfig)
    data = datasets.Dataset.from_list(rows)
    trainer = trainer_class(str(setting.folder), args=config_class(**settings), train_dataset=data)
    trainer.remove_callback(PrinterCallback)
    return trainer


class Clock(TrainerCallback):
    """Seconds of the updates after the warm-up, and the growth of memory in MiB."""

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        self.memory_before = peak_memory(reset=True)

    def on_step_begin(self, args: Any, state: Any, *rest: Any, **kwargs: Any) -> None:
        if state.global_step == WARMUP:
            self.start = now()

    def on_train_end(self, args: Any, state: Any, *rest: Any, **kwargs: Any) -> None:
        self.seconds = now() - self.start
        self.growth = peak_memory() - self.memory_before
        self.updates = state.global_step - WARMUP


def time_training(setting: Setting, side: str, seed: int) -> dict[str, float]:
    """Trains and returns pairs per second, the growth of memory in MiB and the machine's rate.

    The side with a cached reference reads it from the setting's folder, where an earlier run
    wrote it; for the others the cache is empty at the start.
    """
    with _cache_folder(setting, side) as cache:
        trainer, clock = make_trainer(setting, side, cache, seed), Clock()
        trainer.add_callback(clock)
        trainer.train()
    return {
        "pairs_per_second": clock.updates * setting.batch / clock.seconds,
        "seconds_per_update": clock.seconds / clock.updates,
        "memory": clock.growth,
        "matrix_rate": matrix_rate(setting.bf16),
    }


@contextmanager
def _cache_folder(setting: Setting, side: str) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as empty:
        yield setting.folder if side.endswith(CACHED) else Path(empty)


class FlopCount(TrainerCallback):
    """FLOP of all updates, without the work before the first."""

    def __init__(self) -> None:
        self.counter = FlopCounterMode(display=False)

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        self.counter.__enter__()

    def on_train_end(self, *args: Any, **kwargs: Any) -> None:
        self.counter.__exit__(None, None, None)


def flops_per_pair(setting: Setting, side: str) -> float:
    """Returns the FLOP of a pair in matrix products and attention."""
    aten: Any = torch.ops.aten
    attention, backward = (
        (getattr(aten, name), getattr(aten, name.replace("attention", "attention_for_cpu")))
        for name in (ATTENTION, f"{ATTENTION}_backward")
    )
    # Operators that torch's counter does not know count like those that it knows.
    for known, unknown in ((aten.addmm, aten.addmm_), attention, backward):
        flop_registry[unknown] = flop_registry[known]
    with _cache_folder(setting, side) as cache:
        trainer, count = make_trainer(setting, side, cache, max_steps=COUNTED), FlopCount()
        trainer.add_callback(count)
        trainer.train()
    return count.counter.get_total_flops() / (COUNTED * setting.batch)


def disagreement(
    setting: Setting,
    fdpo_options: dict[str, Any] | None = None,
    trl_options: dict[str, Any] | None = None,
) -> dict[str, float]:
    """Returns the relative differences of loss and gradient on one batch, a step from the start.

    Arguments:
        setting: The options that all sides share.
        fdpo_options: Options of fdpo's configuration that choose the loss.
        trl_options: Options of TRL's that choose the same loss.
    """
    with tempfile.TemporaryDirectory() as empty:
        trainer = partial(make_trainer, setting, cache=Path(empty))
        actual = _loss_and_gradient(trainer(side="fdpo", **(fdpo_options or {})))
        expected = _loss_and_gradient(trainer(side="trl", **(trl_options or {})))
    return relative_differences(actual, expected)


def _loss_and_gradient(trainer: Any) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    model = trainer.model.eval()
    with torch.no_grad():
        for parameter in model.parameters():
            noise = 0.005 * torch.randn(parameter.shape, generator=generator)
            parameter += noise.to(parameter.device)
    examples = [trainer.train_dataset[i] for i in range(trainer.args.train_batch_size)]
    batch = trainer._prepare_inputs(trainer.data_collator(examples))
    with trainer.accelerator.autocast():
        loss = trainer.compute_loss(model, batch)
    return loss.detach(), flat_gradient(loss, model)
