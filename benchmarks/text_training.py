"""Text trainers side by side: TRL's DPOTrainer and fdpo's, of one model on one set of pairs.

Everything else is equal: the batch size, the optimiser, the learning rate, the longest text, and
that neither keeps checkpoints nor recomputes activations. Neither trainer has dropout.
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
from side_by_side import differences, gradient_of, matrix_rate, memory, now
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

from fdpo import preferences
from fdpo.llm import FDPOConfig, FDPOTrainer

SIZES = {"2.6M": (48, 4, 4), "25M": (320, 8, 8), "124M": (768, 12, 12)}  # width, layers, heads
WARM = 1  # updates before the clock runs
COUNTED = 2  # updates whose FLOP are counted
PRECOMPUTED, KEPT = ", precomputed", ", reference kept"
SIDES = ("trl", "trl" + PRECOMPUTED, "fdpo", "fdpo" + KEPT)
DEFAULTS = SIDES[0], SIDES[2]
PAIRS = "pairs.jsonl"
ATTENTION = "_scaled_dot_product_flash_attention"


@dataclass(frozen=True)
class Setting:
    """What the sides have in common.

    Arguments:
        folder: Of the model and the pairs.
        batch: Pairs of an update.
        max_length: The longest prompt with a completion, tokens.
        bf16: Whether to train in bf16 instead of fp32.
    """

    folder: Path
    batch: int
    max_length: int = 512
    bf16: bool = False


def prepare(
    setting: Setting, data_root: str, size: str, pairs: Sequence[preferences.Pair], updates: int
) -> None:
    """Writes an untrained GPT-2, its tokenizer, and pairs for so many updates."""
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


def trainer_of(setting: Setting, side: str, cache: Path, seed: int = 0, **options: Any) -> Any:
    """Makes the trainer of a side, for one epoch.

    Arguments:
        setting: What the sides have in common.
        side: One of :data:`SIDES`.
        cache: Where fdpo's trainer keeps what the reference says.
        seed: Of the order of pairs.
        **options: More options of its configuration.
    """
    datasets.disable_progress_bars()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    ours = side.startswith("fdpo")
    given: dict[str, Any] = {
        "output_dir": str(cache / "run"), "per_device_train_batch_size": setting.batch,
        "num_train_epochs": 1, "max_length": setting.max_length, "learning_rate": 1e-4,
        "report_to": "none", "save_strategy": "no", "disable_tqdm": True, "logging_steps": 10_000,
        "precompute_ref_log_probs": side.endswith(PRECOMPUTED), "bf16": setting.bf16,
        "gradient_checkpointing": False, "seed": seed,
        **({"reference_cache": str(cache)} if ours else {}), **options,
    }  # fmt: skip
    rows = [pair.row() for pair in preferences.read_pairs(setting.folder / PAIRS)]
    kind, config = (FDPOTrainer, FDPOConfig) if ours else (DPOTrainer, DPOConfig)
    data = datasets.Dataset.from_list(rows)
    trainer = kind(str(setting.folder), args=config(**given), train_dataset=data)
    trainer.remove_callback(PrinterCallback)
    return trainer


class Clock(TrainerCallback):
    """Takes the seconds of the updates after the first ones, and the growth of memory in MiB."""

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        self.before = memory(reset=True)

    def on_step_begin(self, args: Any, state: Any, *rest: Any, **kwargs: Any) -> None:
        if state.global_step == WARM:
            self.begun = now()

    def on_train_end(self, args: Any, state: Any, *rest: Any, **kwargs: Any) -> None:
        self.seconds = now() - self.begun
        self.growth = memory() - self.before
        self.updates = state.global_step - WARM


def timed(setting: Setting, side: str, seed: int) -> dict[str, float]:
    """Trains and returns pairs per second, the growth of memory in MiB and the machine's rate.

    With the reference kept, what it says is read in the setting's folder, where an earlier run put
    it; otherwise the cache is empty at the start.
    """
    with _cache(setting, side) as cache:
        trainer, clock = trainer_of(setting, side, cache, seed), Clock()
        trainer.add_callback(clock)
        trainer.train()
    return {
        "pairs_per_second": clock.updates * setting.batch / clock.seconds,
        "seconds_per_update": clock.seconds / clock.updates,
        "memory": clock.growth,
        "matrix_rate": matrix_rate(setting.bf16),
    }


@contextmanager
def _cache(setting: Setting, side: str) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as empty:
        yield setting.folder if side.endswith(KEPT) else Path(empty)


class FlopCount(TrainerCallback):
    """Counts the FLOP of all updates, without what comes before the first."""

    def __init__(self) -> None:
        self.counter = FlopCounterMode(display=False)

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        self.counter.__enter__()

    def on_train_end(self, *args: Any, **kwargs: Any) -> None:
        self.counter.__exit__(None, None, None)


def flops_per_pair(setting: Setting, side: str) -> float:
    """Counts what a side computes for a pair in matrix products and attention, FLOP."""
    aten: Any = torch.ops.aten
    attention, backward = (
        (getattr(aten, name), getattr(aten, name.replace("attention", "attention_for_cpu")))
        for name in (ATTENTION, f"{ATTENTION}_backward")
    )
    # What torch's counter does not know counts like what it knows.
    for known, unknown in ((aten.addmm, aten.addmm_), attention, backward):
        flop_registry[unknown] = flop_registry[known]
    with _cache(setting, side) as cache:
        trainer, count = trainer_of(setting, side, cache, max_steps=COUNTED), FlopCount()
        trainer.add_callback(count)
        trainer.train()
    return count.counter.get_total_flops() / (COUNTED * setting.batch)


def disagreement(
    setting: Setting, ours: dict[str, Any] | None = None, trl: dict[str, Any] | None = None
) -> dict[str, float]:
    """Returns the relative differences of loss and gradient on one batch, a step from the start.

    Arguments:
        setting: What the sides have in common.
        ours: Options of fdpo's configuration that choose the loss.
        trl: Options of TRL's that choose the same.
    """
    with tempfile.TemporaryDirectory() as empty:
        make = partial(trainer_of, setting, cache=Path(empty))
        found = _loss_and_gradient(make(side="fdpo", **(ours or {})))
        expected = _loss_and_gradient(make(side="trl", **(trl or {})))
    return differences(found, expected)


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
    return loss.detach(), gradient_of(loss, model)
