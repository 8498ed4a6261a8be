"""What a finished run of Stable Diffusion leaves: a LoRA or a whole pipeline, with its card."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from diffusers import DiffusionPipeline
from diffusers.utils import convert_state_dict_to_diffusers, convert_state_dict_to_kohya
from huggingface_hub import HfApi
from peft import get_peft_model_state_dict
from safetensors.torch import save_file
from torch import Tensor

from fdpo import runs
from fdpo.cards import loss_section, model_card
from fdpo.diffusion.text_to_image.config import StableDiffusionConfig
from fdpo.diffusion.text_to_image.pipeline import LORA, StableDiffusion
from fdpo.diffusion.trainer import DiffusionTrainer

CARD = "README.md"
COMFYUI_LORA = "comfyui_lora.safetensors"
_SHELL = "base_model.model."


def lora_weights(policy: Any, state: Mapping[str, Tensor], scale: float) -> dict[str, Tensor]:
    """Returns an adapter's weights in fp32 on the CPU, named as in the U-Net.

    The scale alpha / rank is multiplied into the second factor: whatever reads the file, with or
    without its notes on alpha, takes alpha for the rank and finds the same layers.

    Arguments:
        policy: The U-Net as peft wraps it.
        state: Its weights.
        scale: alpha / rank.
    """
    found = get_peft_model_state_dict(policy, state_dict=dict(state))
    return {
        name.removeprefix(_SHELL): (value * scale if ".lora_B." in name else value).float().cpu()
        for name, value in found.items()
    }


def save_lora(folder: Path, model: StableDiffusion, weights: Mapping[str, Tensor]) -> None:
    """Writes a LoRA twice: under diffusers' names, and under those that ComfyUI and others know."""
    named = convert_state_dict_to_diffusers(dict(weights))
    type(model.pipeline).save_lora_weights(folder, unet_lora_layers=named)
    known = convert_state_dict_to_kohya({f"unet.{name}": v for name, v in weights.items()})
    save_file(known, folder / COMFYUI_LORA)


def save_finished(
    trainer: DiffusionTrainer, model: StableDiffusion, folder: Path, **source: Any
) -> list[str]:
    """Saves what was trained, in the format that diffusers loads; every process calls it.

    Of a LoRA one file is for ``load_lora_weights``, one for ComfyUI. Otherwise the whole pipeline
    is written, its other parts as their files are.

    Arguments:
        trainer: The trainer.
        model: The pipeline that it started from.
        folder: Where to.
        source: How that pipeline is found, such as its ``revision``.

    Returns:
        The names of what was written in the folder.
    """
    policy = trainer.finished()
    state = trainer.accelerator.get_state_dict(trainer.policy)
    if not trainer.accelerator.is_main_process:
        return []
    with _beside(folder) as place:
        if trainer.config.rank:
            alpha = trainer.config.lora_alpha or trainer.config.rank
            save_lora(place, model, lora_weights(policy, state, alpha / trainer.config.rank))
        else:
            whole = DiffusionPipeline.from_pretrained(
                model.name, unet=policy, use_safetensors=True, **source
            )
            whole.save_pretrained(place)
        names = sorted(path.name for path in place.iterdir())
    return names


@contextmanager
def _beside(folder: Path) -> Iterator[Path]:
    """A folder beside whose contents replace those of ``folder`` at the end."""
    place = folder / f".saving.{os.getpid()}"
    place.mkdir(parents=True)
    try:
        yield place
        for path in place.iterdir():
            old = folder / path.name
            if old.is_dir():
                shutil.rmtree(old)
            os.replace(path, old)
    finally:
        shutil.rmtree(place, ignore_errors=True)


def write_card(
    folder: Path,
    base: str,
    config: StableDiffusionConfig,
    *,
    data: str,
    metrics: Mapping[str, Any],
    images: str | None,
) -> None:
    """Writes the model card, ``README.md``.

    Arguments:
        folder: The run folder.
        base: The name of the pipeline that was trained.
        config: The options of the run.
        data: The name of the dataset.
        metrics: Metrics of the run.
        images: A file of images sampled from the base and the policy, if there is one.
    """
    divergence, preference = config.resolve()
    weights = dict(zip(("dpo", "sft", "negative sft"), config.weights(), strict=True))
    more = {
        "κ (nats per unit of squared error)": (
            "T·D·w_t" if config.true_weight else f"{config.kappa:g}"
        ),
        "weights of the terms": ", ".join(f"{name} {w:g}" for name, w in weights.items()),
        "trained": f"LoRA of rank {config.rank}" if config.rank else "all weights of the U-Net",
        "pairs an update": f"{config.pairs_per_update:,}",
        "learning rate": f"{config.peak_learning_rate:g}",
        "data": data,
        **{name.replace("_", " "): f"{value:g}" for name, value in metrics.items()},
    }
    pipeline = (
        f'pipeline = DiffusionPipeline.from_pretrained("{base}")\n'
        f'pipeline.load_lora_weights("{folder.name}", weight_name="{LORA}")'
        if config.rank
        else f'pipeline = DiffusionPipeline.from_pretrained("{folder.name}")'
    )
    body = f"""
`{base}` trained on preference pairs. The terms of that model and of the data apply to it.
{f"{chr(10)}![base beside policy]({images}){chr(10)}" if images else ""}
```python
from diffusers import DiffusionPipeline

{pipeline}
image = pipeline("a photo of a fox in the snow").images[0]
```
{loss_section(config, divergence, preference, more)}"""
    card = model_card(
        folder.name,
        body,
        base_model=base,
        base_model_relation="adapter" if config.rank else "finetune",
        library_name="diffusers",
        pipeline_tag="text-to-image",
        tags=["text-to-image", "diffusers", "dpo", "fdpo", *(["lora"] if config.rank else [])],
    )
    runs.write_text(folder / CARD, card)


def push(folder: Path, hub_id: str, names: list[str]) -> str:
    """Uploads files of a folder to the hub; returns the address."""
    HfApi().create_repo(hub_id, exist_ok=True)
    patterns = [pattern for name in names for pattern in (name, f"{name}/*")]
    return str(HfApi().upload_folder(repo_id=hub_id, folder_path=folder, allow_patterns=patterns))
