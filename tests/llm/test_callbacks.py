"""Callbacks of training: gradients that are not finite, the clock."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from torch import Tensor
from transformers import TrainerControl, TrainerState

from fdpo.llm.callbacks import FiniteGradients, TrainingClock
from fdpo.llm.trainer import FDPOTrainer
from tests.llm.training import config


def test_a_gradient_that_is_not_finite_names_step_and_pair(
    tiny_model: Path, pairs: Dataset, tmp_path: Path
) -> None:
    trainer = FDPOTrainer(str(tiny_model), config(tmp_path), train_dataset=pairs)
    batch = trainer.data_collator([trainer.train_dataset[i] for i in (3, 5, 7)])
    trainer.model.train()
    broken = torch.tensor(trainer.train_dataset[5]["prompt_ids"])

    def poison(module: Any, inputs: Any, output: Tensor) -> None:
        """Poisons the gradient of rows that begin as pair 5 does."""
        bad = (inputs[0][:, : len(broken)] == broken).all(dim=1)
        if output.requires_grad:
            output.register_hook(lambda g: torch.where(bad[:, None, None], math.inf, g))

    trainer.model.transformer.wte.register_forward_hook(poison)
    trainer.compute_loss(trainer.model, batch).backward()
    with pytest.raises(FloatingPointError, match=r"^step 1: the gradient of pair 5 \(' "):
        FiniteGradients(trainer).check()


@pytest.mark.parametrize("name", ["TrainingClock", "Seconds"])
def test_the_clock_continues_that_of_a_checkpoint(name: str) -> None:
    """``Seconds`` is its name in a checkpoint of version 0.1."""
    saved = {name: {"args": {}, "attributes": {"seconds": 1000.0}}}
    state, clock = TrainerState(stateful_callbacks=saved), TrainingClock()
    arguments: Any = None
    clock.on_train_begin(arguments, state, TrainerControl())
    clock.on_step_end(arguments, state, TrainerControl())
    assert 1000 <= clock.seconds < 1010
    assert list(state.stateful_callbacks) == ["TrainingClock"]


def test_a_clock_starts_at_zero() -> None:
    state, clock = TrainerState(stateful_callbacks={}), TrainingClock()
    arguments: Any = None
    clock.on_train_begin(arguments, state, TrainerControl())
    assert state.stateful_callbacks == {"TrainingClock": clock.state()}
    clock.on_step_end(arguments, state, TrainerControl())
    assert 0 <= clock.seconds < 10
