"""Image models: a small U-Net for pixels, and how a model is loaded with its noising process."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler, UNet2DModel
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.unets.unet_2d import UNet2DOutput
from torch import Tensor, nn
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from fdpo.diffusion.noise import Model, NoiseProcess, process_from_scheduler
from fdpo.runs.files import read_json

WEIGHTS = "*.safetensors"


class PixelUNet(ModelMixin, ConfigMixin):
    r"""diffusers' ``UNet2DModel`` on patches of pixels, conditioned on the time.

    A picture of :math:`S \times S` pixels with C channels enters as :math:`S/p \times S/p` patches
    with :math:`Cp^2` channels (``pixel_unshuffle``), and leaves the same way: on a small picture
    that is several times faster, at no loss of detail. It saves and loads as every model of
    diffusers does.

    Arguments:
        sample_size: Height and width of a picture, pixels.
        channels: Colour channels of a picture.
        patch: Height and width of a patch, pixels.
        block_out_channels: Channels of the U-Net's levels, each half as wide as the one before.
        layers_per_block: Residual blocks of a level.
        norm_num_groups: Groups of its group norms; divides all channels.
    """

    _supports_gradient_checkpointing = True

    @register_to_config
    def __init__(
        self,
        sample_size: int = 28,
        channels: int = 1,
        patch: int = 2,
        block_out_channels: tuple[int, ...] = (32, 64),
        layers_per_block: int = 1,
        norm_num_groups: int = 8,
    ) -> None:
        super().__init__()
        levels = len(block_out_channels)
        self.unet = UNet2DModel(
            sample_size=sample_size // patch,
            in_channels=channels * patch**2,
            out_channels=channels * patch**2,
            down_block_types=("DownBlock2D",) * levels,
            up_block_types=("UpBlock2D",) * levels,
            block_out_channels=tuple(block_out_channels),
            layers_per_block=layers_per_block,
            norm_num_groups=norm_num_groups,
        )

    def forward(self, sample: Tensor, timestep: Tensor) -> UNet2DOutput:
        patch = self.config["patch"]
        patches = self.unet(pixel_unshuffle(sample, patch), timestep).sample
        return UNet2DOutput(sample=pixel_shuffle(patches, patch))


def image_shape(model: nn.Module) -> tuple[int, int, int]:
    """Returns the (channels, height, width) of the pictures that a model makes."""
    config: Any = model.config
    size = config["sample_size"]
    height, width = (size, size) if isinstance(size, int) else size
    return config.get("channels", config.get("in_channels")), height, width


def predictor(model: nn.Module) -> Model:
    """Returns an unconditional model as a process calls it."""
    return lambda x, t: model(x, t).sample


def load(name: str, device: torch.device | str = "cpu") -> tuple[nn.Module, NoiseProcess]:
    """Loads an unconditional image model and its noising process, in fp32.

    Arguments:
        name: A folder of :func:`save`, or a folder or hub id of an unconditional diffusers pipeline
            with ``unet`` and ``scheduler``.
        device: Where to.

    Raises:
        ValueError: If the folder has no model, no weights or no noising process.
    """
    folder = Path(name)
    if not folder.is_dir() and (name.count("/") != 1 or name.startswith(".")):
        raise ValueError(f"model {name}: no such folder, and no hub id (owner/name)")
    if folder.is_dir() and (folder / "config.json").exists():
        _require_weights(folder)
        kinds = {"PixelUNet": PixelUNet, "UNet2DModel": UNet2DModel}
        kind = read_json(folder / "config.json").get("_class_name")
        if kind not in kinds:
            raise ValueError(f"model {name}: holds a {kind}, not one of {', '.join(kinds)}")
        model, scheduler = kinds[kind].from_pretrained(name), _scheduler(name)
    elif folder.is_dir() and not (folder / "unet").is_dir():
        raise ValueError(f"model {name}: no config.json in this folder, nor a folder unet")
    else:
        if folder.is_dir():
            _require_weights(folder / "unet")
        model = UNet2DModel.from_pretrained(name, subfolder="unet", use_safetensors=True)
        scheduler = _scheduler(name, subfolder="scheduler")
    return model.float().to(device).eval(), process_from_scheduler(scheduler)


def save(model: nn.Module, process: NoiseProcess, folder: str | Path, half: bool = False) -> None:
    """Saves a model with its noising process; ``half`` stores the weights in fp16."""
    stored: Any = copy.deepcopy(model).half() if half else model
    stored.save_pretrained(folder)
    process.scheduler().save_pretrained(folder)


def _require_weights(folder: Path) -> None:
    if not any(folder.glob(WEIGHTS)):
        raise ValueError(f"model {folder}: no weights in this folder ({WEIGHTS})")


def _scheduler(name: str, **where: str) -> Any:
    try:
        config = DDPMScheduler.load_config(name, **where)
    except OSError as error:
        raise ValueError(f"model {name}: no scheduler_config.json ({error})") from error
    if config.get("_class_name") == "FlowMatchEulerDiscreteScheduler":
        return FlowMatchEulerDiscreteScheduler.from_config(config)
    return DDPMScheduler.from_config(config)
