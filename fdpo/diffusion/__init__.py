"""Image models: noise processes, log-ratios, the trainer and pixel models."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from fdpo.diffusion.config import DiffusionConfig
from fdpo.diffusion.dataset import ImagePairs, PairDataset
from fdpo.diffusion.noise import (
    DDPM,
    Flow,
    NoiseProcess,
    errors,
    log_ratios,
    process_from_scheduler,
)

if TYPE_CHECKING:
    from fdpo.diffusion.models import PixelUNet
    from fdpo.diffusion.trainer import DiffusionTrainer

# The names of version 0.1.
DrawnPairs = PairDataset
PicturePairs = ImagePairs
Process = NoiseProcess
process_of = process_from_scheduler

__all__ = [
    "DDPM",
    "DiffusionConfig",
    "DiffusionTrainer",
    "DrawnPairs",
    "Flow",
    "ImagePairs",
    "NoiseProcess",
    "PairDataset",
    "PicturePairs",
    "PixelUNet",
    "Process",
    "errors",
    "log_ratios",
    "process_from_scheduler",
    "process_of",
]

_LAZY = {"DiffusionTrainer": "trainer", "PixelUNet": "models"}
"""Names whose modules import diffusers and Accelerate, which takes seconds."""


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
