"""Small trainers on the tiny GPT-2, and their losses and gradients."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from torch import Tensor
from trl import DPOTrainer

from fdpo.llm.config import FDPOConfig

LORA = LoraConfig(r=4, target_modules=["c_attn"], task_type="CAUSAL_LM", fan_in_fan_out=True)


def config(output_dir: Path, **kwargs: Any) -> FDPOConfig:
    """Returns the configuration of a short training without files."""
    defaults: dict[str, Any] = {
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-3,
        "logging_steps": 1,
        "save_strategy": "no",
        "disable_tqdm": True,
    }
    return FDPOConfig(output_dir=str(output_dir), **defaults | kwargs)


def perturb(model: torch.nn.Module) -> None:
    """Moves a policy away from its reference, so that log-ratios are not all zero."""
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)


def first_batch(trainer: DPOTrainer) -> dict[str, Any]:
    """Returns a batch of the first four pairs, in the order of the data."""
    return trainer.data_collator([trainer.train_dataset[i] for i in range(4)])


def loss_and_gradients(trainer: DPOTrainer) -> tuple[float, dict[str, Tensor]]:
    """Returns the loss of the first batch and its gradients, away from the reference."""
    perturb(trainer.model)
    trainer.model.train()
    loss = trainer.compute_loss(trainer.model, first_batch(trainer))
    loss.backward()
    return loss.item(), {
        name: p.grad.clone() for name, p in trainer.model.named_parameters() if p.grad is not None
    }
