"""Image models: noise processes, log-ratios, the trainer and pixel models."""

from fdpo.diffusion.config import DiffusionConfig
from fdpo.diffusion.dataset import ImagePairs, PairDataset
from fdpo.diffusion.models import PixelUNet
from fdpo.diffusion.noise import (
    DDPM,
    Flow,
    NoiseProcess,
    errors,
    log_ratios,
    process_from_scheduler,
)
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
