"""A tiny model, its pairs and trainers of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from accelerate.state import AcceleratorState, GradientState
from torch import Tensor, nn
from torch.utils.data import default_collate

from fdpo.diffusion import DiffusionTrainer, ImagePairs, PixelUNet

MakeTrainer = Callable[..., DiffusionTrainer]
SMALL_STEP = 0.02  # of the weights, for a policy that differs from its reference


def tiny_model(seed: int = 0) -> PixelUNet:
    torch.manual_seed(seed)
    return PixelUNet(sample_size=8, block_out_channels=(8, 16), norm_num_groups=4)


def tiny_pairs(n: int = 16) -> ImagePairs:
    generator = torch.Generator().manual_seed(7)
    images = torch.rand(2 * n, 1, 8, 8, generator=generator) * 2 - 1
    return ImagePairs(images, [(i, n + i) for i in range(n)])


def reset_accelerate() -> None:
    """Forgets Accelerate's state, one per process: use a trainer before the next one is made."""
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def get_batch(trainer: DiffusionTrainer, n: int = 4, epoch: int = 0) -> dict[str, Any]:
    """Returns the first pairs of an epoch, collated."""
    return default_collate([trainer.dataset[epoch, index] for index in range(n)])


def perturb(trainer: DiffusionTrainer, seed: int = 3) -> None:
    """Takes the policy a step away from the reference."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in trainer.policy.parameters():
            if parameter.requires_grad:
                parameter += SMALL_STEP * torch.randn(parameter.shape, generator=generator)


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def assert_same(
    a: dict[str, Tensor], b: dict[str, Tensor], rtol: float = 0, atol: float = 0
) -> None:
    assert a.keys() == b.keys()
    for name, value in a.items():
        torch.testing.assert_close(value, b[name], rtol=rtol, atol=atol)
