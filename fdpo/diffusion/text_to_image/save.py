"""Saving of trained text-to-image models: a LoRA, or a whole pipeline."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from diffusers import DiffusionPipeline
from diffusers.utils import convert_state_dict_to_diffusers, convert_state_dict_to_kohya
from peft import get_peft_model_state_dict
from safetensors.torch import save_file
from torch import Tensor

from fdpo.diffusion.text_to_image.pipeline import StableDiffusion
from fdpo.diffusion.trainer import DiffusionTrainer

COMFYUI_LORA = "comfyui_lora.safetensors"
_PEFT_PREFIX = "base_model.model."


def save_trained(
    trainer: DiffusionTrainer, model: StableDiffusion, folder: Path, **source: Any
) -> list[str]:
    """Saves a trained model in diffusers' format; every process calls it.

    A LoRA is written to two files, one for ``load_lora_weights`` and one for ComfyUI. Otherwise the
    whole pipeline is written, its other parts unchanged.

    Arguments:
        trainer: The trainer.
        model: The pipeline that was trained.
        folder: The folder to save to.
        source: Options that loaded the pipeline, such as its ``revision``.

    Returns:
        The names of the files and folders that were written, in the first process.
    """
    policy = trainer.finished()
    state = trainer.accelerator.get_state_dict(trainer.policy)
    if not trainer.accelerator.is_main_process:
        return []
    with replacing_contents(folder) as temporary:
        if trainer.config.rank:
            alpha = trainer.config.lora_alpha or trainer.config.rank
            save_lora(temporary, model, lora_weights(policy, state, alpha / trainer.config.rank))
        else:
            pipeline = DiffusionPipeline.from_pretrained(
                model.name, unet=policy, use_safetensors=True, **source
            )
            pipeline.save_pretrained(temporary)
        names = sorted(path.name for path in temporary.iterdir())
    return names


def lora_weights(policy: Any, state: Mapping[str, Tensor], scale: float) -> dict[str, Tensor]:
    """Returns an adapter's weights in fp32 on the CPU, named as in the U-Net.

    The scale alpha / rank is multiplied into the second factor: readers that take alpha for the
    rank, with or without the file's metadata on alpha, get the same layers.

    Arguments:
        policy: The U-Net in peft's wrapper.
        state: Its weights.
        scale: alpha / rank.
    """
    weights = get_peft_model_state_dict(policy, state_dict=dict(state))
    return {
        name.removeprefix(_PEFT_PREFIX): (value * scale if ".lora_B." in name else value)
        .float()
        .cpu()
        for name, value in weights.items()
    }


def save_lora(folder: Path, model: StableDiffusion, weights: Mapping[str, Tensor]) -> None:
    """Writes a LoRA twice, under the names of diffusers and under those of ComfyUI and others."""
    layers = convert_state_dict_to_diffusers(dict(weights))
    type(model.pipeline).save_lora_weights(folder, unet_lora_layers=layers)
    kohya = convert_state_dict_to_kohya({f"unet.{name}": v for name, v in weights.items()})
    save_file(kohya, folder / COMFYUI_LORA)


@contextmanager
def replacing_contents(folder: Path) -> Iterator[Path]:
    """Yields a temporary folder whose files and folders move to ``folder`` at the end.

    They replace those of the same name; after an error nothing moves.
    """
    temporary = folder / f".saving.{os.getpid()}"
    temporary.mkdir(parents=True)
    try:
        yield temporary
        for path in temporary.iterdir():
            previous = folder / path.name
            if previous.is_dir():
                shutil.rmtree(previous)
            os.replace(path, previous)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
