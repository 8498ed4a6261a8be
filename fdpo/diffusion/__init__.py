"""f-DPO for image models: noising processes, log-ratios, the trainer, pixel models."""

from fdpo.diffusion.config import DiffusionConfig
from fdpo.diffusion.models import PixelUNet
from fdpo.diffusion.pairs import DrawnPairs, PicturePairs
from fdpo.diffusion.processes import DDPM, Flow, Process, errors, log_ratios, process_of
from fdpo.diffusion.trainer import DiffusionTrainer

__all__ = [
    "DDPM",
    "DiffusionConfig",
    "DiffusionTrainer",
    "DrawnPairs",
    "Flow",
    "PicturePairs",
    "PixelUNet",
    "Process",
    "errors",
    "log_ratios",
    "process_of",
]
