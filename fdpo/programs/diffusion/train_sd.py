"""Trains Stable Diffusion on preference pairs with any f-divergence, and shows what it did.

    python diffusion/train_sd.py --config diffusion/configs/lora.yaml --dataset pairs/ --loss jsd

Pairs are Pick-a-Pic's columns (a hub id or Parquet) or a folder with a JSONL file of {caption,
chosen, rejected}. The run folder ends up with a LoRA or a pipeline that diffusers loads.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from fdpo import preferences, runs
from fdpo.cli import arguments
from fdpo.diffusion import DiffusionTrainer
from fdpo.diffusion.text_to_image.config import StableDiffusionConfig
from fdpo.diffusion.text_to_image.dataset import TextToImagePairs
from fdpo.diffusion.text_to_image.relabel import relabelled
from fdpo.diffusion.text_to_image.latents import LatentCache
from fdpo.diffusion.text_to_image.pairs import SIDES, CaptionedPairs, load_pairs, readable
from fdpo.diffusion.text_to_image.pipeline import GUIDANCE, STEPS, StableDiffusion, load, load_vae
from fdpo.diffusion.text_to_image.save import CARD, push, save_finished, write_card
from fdpo.diffusion.text_to_image.scorers import get_image_scorer
from fdpo.diffusion.text_to_image.transforms import PairTransform
from fdpo.diffusion.text_to_image.validation import Validation
from fdpo.estimators.linearity import linearity_warning
from fdpo.losses.config import RESETS
from fdpo.runs.distributed import partial_state

OURS = (
    "dataset, scorer, rule, k, k_top, min_gap, check_pictures, skip_unreadable, cache_latents, "
    "cache_dir, num_validation_images, validation_scorers, ema_decay, lora_target_modules, "
    "use_cpu, logging_steps, and in the last group all from loss to reference_cache"
)
PRECISIONS = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass
class ModelArguments:
    """Model."""

    pretrained_model_name_or_path: str = field(
        metadata={"help": "policy and reference, SD 1.x, 2.x or XL: hub id or folder of a pipeline"}
    )
    pretrained_vae_model_name_or_path: str | None = field(
        default=None, metadata={"help": "VAE in place of the pipeline's own"}
    )
    revision: str | None = field(default=None, metadata={"help": "of the hub's repository"})
    variant: str | None = field(default=None, metadata={"help": "of the weights' files: fp16 …"})


@dataclass
class DataArguments(preferences.PairingConfig):
    """Pairs."""

    dataset_name: str = field(
        default="",
        metadata={
            "help": "pairs: hub id, Parquet (Pick-a-Pic's columns), JSONL file of {caption, "
            "chosen, rejected} or {caption, completions, scores}, or a folder with one of them"
        },
    )
    dataset_split_name: str = field(default="train", metadata={"help": "split to train on"})
    max_train_samples: int | None = field(default=None, metadata={"help": "rows to read, at most"})
    resolution: int | None = field(
        default=None, metadata={"help": "height and width, pixels; default: the model's"}
    )
    random_flip: bool = field(default=True, metadata={"help": "flip half of the pairs"})
    random_crop: bool = field(
        default=False, metadata={"help": "crop any_process, not in the middle"}
    )
    proportion_empty_prompts: float = field(
        default=0.2, metadata={"help": "share of captions that are dropped, for guidance"}
    )
    scorer: str | None = field(
        default=None,
        metadata={
            "help": "label the pairs anew: pickscore, clip, aesthetics (or one of them =MODEL), "
            "package.module:function of (captions, paths)"
        },
    )
    check_pictures: bool = field(
        default=True, metadata={"help": "decode every picture before training"}
    )
    skip_unreadable: bool = field(
        default=False, metadata={"help": "drop pairs with a picture that cannot be read"}
    )
    cache_latents: bool = field(
        default=False, metadata={"help": "encode pictures and captions once, and keep them"}
    )
    cache_dir: str = field(
        default="runs/cache", metadata={"help": "of latents and scores; runs share it"}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.dataset_name:
            raise ValueError("--dataset is needed: a hub id, a file or a folder of pairs")
        if not 0 <= self.proportion_empty_prompts < 1:
            found = self.proportion_empty_prompts
            raise ValueError(f"--proportion_empty_prompts must lie in [0, 1), got {found}")
        if self.max_train_samples is not None and self.max_train_samples < 1:
            raise ValueError(f"--max_train_samples must be above 0, got {self.max_train_samples}")
        if self.cache_latents and self.random_crop:
            raise ValueError("--cache_latents: the crops of --random_crop cannot be kept")
        if self.skip_unreadable and not self.check_pictures:
            raise ValueError("--skip_unreadable has no effect with --check_pictures false")


@dataclass
class ValidationArguments:
    """Pictures drawn in training."""

    validation_prompts: list[str] | None = field(
        default=None, metadata={"help": "prompts; default: captions of the data"}
    )
    num_validation_images: int = field(
        default=4, metadata={"help": "pictures, of the prompts in turn; 0: none"}
    )
    num_inference_steps: int = field(
        default=STEPS, metadata={"help": "evaluations of the model a picture"}
    )
    guidance_scale: float = field(default=GUIDANCE, metadata={"help": "of the drawing; 1: none"})
    validation_scorers: list[str] = field(
        default_factory=list, metadata={"help": "scorers of base against policy"}
    )

    def __post_init__(self) -> None:
        if self.num_validation_images < 0 or self.num_inference_steps < 1:
            raise ValueError(
                "--num_validation_images must be at least 0, --num_inference_steps at least 1"
            )
        if not self.num_validation_images and (self.validation_prompts or self.validation_scorers):
            raise ValueError("--num_validation_images 0 leaves nothing to draw and to score")


@dataclass
class TrainConfig(StableDiffusionConfig):
    """Loss and training."""

    def __post_init__(self) -> None:
        if self.output_dir is None:
            name = self.loss if self.alpha is None else f"{self.loss}-{self.alpha:g}"
            self.output_dir = "runs/sd-" + runs.file_name(name)
        super().__post_init__()


def check(
    _: ModelArguments, data: DataArguments, drawing: ValidationArguments, training: TrainConfig
) -> None:
    """Refuses options that would have no effect together."""
    if training.validation_steps and not drawing.num_validation_images:
        raise ValueError("--validation_steps has no effect with --num_validation_images 0")


def load_model(own: ModelArguments, training: TrainConfig) -> StableDiffusion:
    """Loads the pipeline; weights that stay as they are in the dtype that they are used in."""
    half = PRECISIONS[training.mixed_precision]
    return load(
        own.pretrained_model_name_or_path, partial_state().device, dtype=half,
        unet_dtype=half if training.rank else torch.float32,
        vae=own.pretrained_vae_model_name_or_path, revision=own.revision, variant=own.variant,
    )  # fmt: skip


def load_data(own: DataArguments) -> CaptionedPairs:
    """Loads the pairs, looks at their pictures, and lets the scorer label them."""
    pairs, counts = load_pairs(
        own.dataset_name, own.dataset_split_name, rank=own, labelled=own.scorer is None,
        limit=own.max_train_samples,
    )  # fmt: skip
    if own.check_pictures:
        pairs, counts["unreadable"] = readable(pairs, skip=own.skip_unreadable)
    if own.scorer is not None:
        scorer = get_image_scorer(own.scorer, partial_state().device)
        pairs, scored = relabelled(pairs, scorer, own.scorer, own.cache_dir)
        counts["ties"] = scored["ties"]
    if partial_state().is_main_process:
        print(preferences.describe({**counts, "made": len(pairs)}))
    return pairs


def make_validation(
    own: ValidationArguments, model: StableDiffusion, pairs: CaptionedPairs, resolution: int,
    training: TrainConfig,
) -> Validation | None:  # fmt: skip
    """Says what is drawn in training, if anything is."""
    if not own.num_validation_images:
        return None
    captions = dict.fromkeys(pairs.caption(i) for i in range(min(len(pairs), 1000)))
    prompts = own.validation_prompts or list(captions)
    options = {"steps": own.num_inference_steps, "guidance_scale": own.guidance_scale}
    return Validation(
        model,
        [prompts[i % len(prompts)] for i in range(own.num_validation_images)],
        Path(str(training.output_dir)),
        training.seed,
        {name: get_image_scorer(name, partial_state().device) for name in own.validation_scorers},
        options | {"resolution": resolution},
    )


def report(
    trainer: DiffusionTrainer, training: TrainConfig, validation: Validation | None
) -> dict[str, float]:
    """Returns the figures of a finished run, and says what they mean."""
    quantiles = trainer.quantiles()
    metrics = {"steps": trainer.step, "train_seconds": trainer.seconds, **quantiles}
    metrics["pairs_per_second"] = trainer.step * training.pairs_per_update / trainer.seconds
    if validation is not None:
        metrics |= validation.draw(trainer.finished(), trainer)
    for name, value in metrics.items():
        print(f"{name:28} {value:.5g}")
    if warning := linearity_warning(trainer.divergence, quantiles):
        print(f"warning: {warning}")
    return metrics


def main() -> None:
    own, data, drawing, training = arguments.parse(
        (ModelArguments, DataArguments, ValidationArguments, TrainConfig),
        program="train_sd.py",
        presets="diffusion",
        description=f"{(__doc__ or '').splitlines()[0]} fdpo's own options are {OURS}; the others "
        "have the names and meanings of diffusers' training scripts.",
        aliases={"dataset": "dataset_name"},
        resets=RESETS,
        check=check,
    )
    if training.use_cpu:
        os.environ["ACCELERATE_USE_CPU"] = "true"
    with arguments.usage_errors("train_sd.py"):
        resume = training.resume_from_checkpoint
        checkpoint = runs.checkpoint(training.output_dir, resume)
        options = arguments.resolved(own, data, drawing, training)
        runs.require_free(training.output_dir, options, resume=resume)
        model = load_model(own, training)
        resolution = data.resolution or model.resolution
        model.latent_shape(resolution)
        pairs = load_data(data)
        validation = make_validation(drawing, model, pairs, resolution, training)
        framing = PairTransform(resolution, data.random_flip, data.random_crop)
        sides = SIDES if training.compares else SIDES[:1]
        cache = LatentCache(data.cache_dir, model, framing) if data.cache_latents else None
        prepared = TextToImagePairs(
            pairs, model, framing,
            empty_prompts=data.proportion_empty_prompts, cache=cache, sides=sides,
        )  # fmt: skip
        trainer = DiffusionTrainer(
            model.unet, model.process, prepared, training, encode=prepared.encode
        )
        folder = runs.prepare(training.output_dir, options, resume=resume)
    if cache is not None:
        cache.fill(pairs, sides=sides, captions=[""])
    if validation is not None and trainer.accelerator.is_main_process:
        validation.draw_base()
    with runs.recording_nonfinite(folder):
        trainer.train(checkpoint, partial(validation.draw, trainer=trainer) if validation else None)
    if trainer.interrupts.stopped:
        print(f"stopped at step {trainer.step}; --resume_from_checkpoint last goes on")
        sys.exit(130)
    source: dict[str, Any] = {"revision": own.revision, "variant": own.variant}
    if own.pretrained_vae_model_name_or_path:
        source["vae"] = load_vae(own.pretrained_vae_model_name_or_path)
    names = save_finished(trainer, model, folder, **source)
    if trainer.accelerator.is_main_process:
        metrics = report(trainer, training, validation)
        sheet = f"validation/step-{trainer.step}.png" if validation else None
        write_card(
            folder, own.pretrained_model_name_or_path, training,
            data=data.dataset_name, metrics=metrics, pictures=sheet,
        )  # fmt: skip
        runs.write_json(folder / runs.METRICS, metrics)
        print(f"run folder: {folder}")
        if training.push_to_hub:
            files = [*names, CARD, *([sheet] if sheet else [])]
            print("uploaded to", push(folder, training.hub_model_id or folder.name, files))
    trainer.accelerator.end_training()


if __name__ == "__main__":
    main()
