"""Model card of a trained text-to-image model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from fdpo import runs
from fdpo.cards import code_span, loss_section, model_card
from fdpo.diffusion.text_to_image.config import StableDiffusionConfig
from fdpo.diffusion.text_to_image.pipeline import LORA

CARD = "README.md"


def write_card(
    folder: Path,
    base: str,
    config: StableDiffusionConfig,
    *,
    data: str,
    metrics: Mapping[str, float],
    images: str | None,
) -> None:
    """Writes the model card, ``README.md``.

    Arguments:
        folder: The run folder.
        base: The name of the pipeline that was trained.
        config: The options of the run.
        data: The name of the data set.
        metrics: The metrics of the run.
        images: A sheet of images of the base and the policy, if there is one.
    """
    divergence, preference = config.resolve()
    sheet = f"\n![base beside policy]({images})\n" if images else ""
    body = f"""
{code_span(base)} trained on preference pairs. The terms of that model and of the data apply to it.
{sheet}
```python
from diffusers import DiffusionPipeline

{_loading_code(folder.name, base, config)}
image = pipeline("a photo of a fox in the snow").images[0]
```
{loss_section(config, divergence, preference, _details(config, data, metrics))}"""
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


def _details(
    config: StableDiffusionConfig, data: str, metrics: Mapping[str, float]
) -> dict[str, str]:
    kappa = "T·D·w_t" if config.true_weight else f"{config.kappa:g}"
    weights = zip(("dpo", "sft", "negative sft"), config.weights(), strict=True)
    return {
        "κ (nats per unit of squared error)": kappa,
        "weights of the terms": ", ".join(f"{name} {weight:g}" for name, weight in weights),
        "trained": f"LoRA of rank {config.rank}" if config.rank else "all weights of the U-Net",
        "pairs per update": f"{config.pairs_per_update:,}",
        "learning rate": f"{config.peak_learning_rate:g}",
        "data": data,
        **{name.replace("_", " "): f"{value:g}" for name, value in metrics.items()},
    }


def _loading_code(name: str, base: str, config: StableDiffusionConfig) -> str:
    if not config.rank:
        return f'pipeline = DiffusionPipeline.from_pretrained("{name}")'
    return (
        f'pipeline = DiffusionPipeline.from_pretrained("{base}")\n'
        f'pipeline.load_lora_weights("{name}", weight_name="{LORA}")'
    )
