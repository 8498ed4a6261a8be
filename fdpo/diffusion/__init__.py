"""f-DPO for image models: noising processes, log-ratios, the trainer, pixel models."""

from fdpo.diffusion.config import DiffusionConfig
from fdpo.diffusion.dataset import ImagePairs, PairDataset
from fdpo.diffusion.models import PixelUNet
from fdpo.diffusion.noise import DDPM, Flow, Process, errors, log_ratios, process_from_scheduler
from fdpo.diffusion.trainer import DiffusionTrainer

__all__ = [
    "DDPM",
    "DiffusionConfig",
    "DiffusionTrainer",
    "PairDataset",
    "Flow",
    "ImagePairs",
    "PixelUNet",
    "Process",
    "errors",
    "log_ratios",
    "process_from_scheduler",
]
