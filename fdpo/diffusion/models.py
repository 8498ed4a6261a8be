"""Unconditional image models: a small U-Net for pixels, loading, saving and LoRA adapters."""

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

from fdpo.diffusion.config import DiffusionConfig
from fdpo.diffusion.noise import Model, NoiseProcess, process_from_scheduler
from fdpo.runs.files import read_json
from fdpo.runs.hub import is_hub_id

WEIGHTS = "diffusion_pytorch_model"


class PixelUNet(ModelMixin, ConfigMixin):
    r"""diffusers' ``UNet2DModel`` on patches of pixels, conditioned on the time.

    An image of :math:`S \times S` pixels with C channels is reshaped into :math:`S/p \times S/p`
    patches with :math:`Cp^2` channels (``pixel_unshuffle``) and back, which makes small images
    several times faster without loss of detail. ``save_pretrained`` and ``from_pretrained`` work as
    for every diffusers model.

    Arguments:
        sample_size: Height and width of an image, pixels.
        channels: Colour channels of an image.
        patch: Height and width of a patch, pixels.
        block_out_channels: Channels of the U-Net's levels, each half as wide as the one before.
        layers_per_block: Residual blocks per level.
        norm_num_groups: Groups of the group norms; divides all channels.
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
    """Returns the (channels, height, width) of a model's images."""
    config: Any = model.config
    size = config["sample_size"]
    height, width = (size, size) if isinstance(size, int) else size
    return config.get("channels", config.get("in_channels")), height, width


def predictor(model: nn.Module) -> Model:
    """Returns an unconditional model as a function of (x_t, times)."""
    return lambda x, t: model(x, t).sample


def add_lora(model: nn.Module, config: DiffusionConfig) -> nn.Module:
    """Returns a model with a LoRA adapter.

    Raises:
        ValueError: If no layer of the model has a name in ``lora_target_modules``.
    """
    from peft import LoraConfig, get_peft_model

    lora = LoraConfig(
        r=config.rank,
        lora_alpha=config.lora_alpha or config.rank,
        target_modules=list(config.lora_target_modules),
    )
    try:
        return get_peft_model(model, lora)
    except ValueError as error:
        raise ValueError(f"--lora_target_modules: {error}") from error


def load_image_model(
    name: str, device: torch.device | str = "cpu"
) -> tuple[nn.Module, NoiseProcess]:
    """Loads an unconditional image model and its noising process, in fp32.

    Arguments:
        name: A folder of :func:`save_image_model`, or a folder or hub id of an unconditional
            diffusers pipeline with ``unet`` and ``scheduler``.
        device: The device.

    Raises:
        ValueError: If the folder has no model, no weights or no noising process.
    """
    folder = Path(name)
    if not folder.is_dir() and not is_hub_id(name):
        raise ValueError(f"model {name}: no such folder, and no hub id (owner/name)")
    if (folder / "config.json").exists():
        model, scheduler = _load_folder(name)
    else:
        model, scheduler = _load_pipeline(name)
    return model.float().to(device).eval(), process_from_scheduler(scheduler)


def save_image_model(
    model: nn.Module, process: NoiseProcess, folder: str | Path, half: bool = False
) -> None:
    """Saves a model with its noising process.

    Arguments:
        model: The model.
        process: Its noising process.
        folder: The folder.
        half: Stores the weights in fp16.
    """
    stored: Any = copy.deepcopy(model).half() if half else model
    stored.save_pretrained(folder)
    process.scheduler().save_pretrained(folder)


def require_weights(folder: str | Path) -> None:
    """Raises ``ValueError`` unless a diffusers model's folder holds its weights as safetensors."""
    if any(Path(folder).glob(f"{WEIGHTS}*.safetensors")):
        return
    unread = "".join(
        f"; {path.name} is not read, because such a file may run a stranger's code"
        for path in Path(folder).glob(f"{WEIGHTS}*.bin")
    )
    raise ValueError(f"model {folder}: no weights in this folder ({WEIGHTS}.safetensors){unread}")


# The names of version 0.1.
load, save = load_image_model, save_image_model


def _load_folder(name: str) -> tuple[Any, Any]:
    require_weights(Path(name))
    classes = {"PixelUNet": PixelUNet, "UNet2DModel": UNet2DModel}
    class_name = read_json(Path(name) / "config.json").get("_class_name")
    if class_name not in classes:
        raise ValueError(f"model {name}: holds a {class_name}, not one of {', '.join(classes)}")
    model = classes[class_name].from_pretrained(name, use_safetensors=True)
    return model, _scheduler(name)


def _load_pipeline(name: str) -> tuple[Any, Any]:
    folder = Path(name)
    if folder.is_dir():
        if not (folder / "unet").is_dir():
            raise ValueError(f"model {name}: no config.json in this folder, nor a folder unet")
        require_weights(folder / "unet")
    model = UNet2DModel.from_pretrained(name, subfolder="unet", use_safetensors=True)
    return model, _scheduler(name, subfolder="scheduler")


def _scheduler(name: str, **subfolder: str) -> Any:
    try:
        config = DDPMScheduler.load_config(name, **subfolder)
    except OSError as error:
        raise ValueError(f"model {name}: no scheduler_config.json ({error})") from error
    if config.get("_class_name") == "FlowMatchEulerDiscreteScheduler":
        return FlowMatchEulerDiscreteScheduler.from_config(config)
    return DDPMScheduler.from_config(config)
