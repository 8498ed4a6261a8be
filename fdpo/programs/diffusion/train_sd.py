"""Trains Stable Diffusion on preference pairs with any f-divergence.

    python diffusion/train_sd.py --config lora --dataset pairs/ --loss jsd

Pairs are Pick-a-Pic's columns (a hub id or Parquet) or a folder with a JSONL file of {caption,
chosen, rejected}. The run folder ends up with a LoRA or a pipeline that diffusers loads, images of
base and policy from the same noise, and a model card.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fdpo import runs
from fdpo.cli import arguments
from fdpo.cli.fields import option_fields
from fdpo.cli.program import Run
from fdpo.cli.quiet import quiet_libraries
from fdpo.diffusion.text_to_image.config import GUIDANCE, STEPS, StableDiffusionConfig
from fdpo.losses.config import RESETS
from fdpo.preferences.pairs import SIDES, PairingConfig, describe
from fdpo.runs.distributed import is_main_process, partial_state

if TYPE_CHECKING:  # importing diffusers takes seconds, which --help and usage errors do without
    from fdpo.diffusion import DiffusionTrainer
    from fdpo.diffusion.text_to_image.dataset import TextToImagePairs
    from fdpo.diffusion.text_to_image.pairs import CaptionedPairs
    from fdpo.diffusion.text_to_image.pipeline import StableDiffusion
    from fdpo.diffusion.text_to_image.validation import Validation

PROGRAM = "train_sd.py"
ALIASES = {"dataset": "dataset_name", "check_pictures": "check_images"}
SHORT = {"dataset_name": "dataset"}

# The options of diffusers' training scripts (examples/text_to_image, dreambooth, diffusion_dpo)
# that this program has; every other one is fdpo's.
DIFFUSERS_OPTIONS = frozenset(
    """
    pretrained_model_name_or_path pretrained_vae_model_name_or_path revision variant
    dataset_split_name max_train_samples resolution random_flip random_crop
    proportion_empty_prompts validation_prompts num_inference_steps guidance_scale validation_steps
    output_dir max_train_steps train_batch_size gradient_accumulation_steps optimizer learning_rate
    scale_lr lr_scheduler lr_warmup_steps adam_beta1 adam_beta2 adam_weight_decay adam_epsilon
    max_grad_norm use_ema rank lora_alpha mixed_precision gradient_checkpointing
    dataloader_num_workers checkpointing_steps checkpoints_total_limit resume_from_checkpoint
    report_to seed push_to_hub hub_model_id
""".split()
)


@dataclass
class ModelArguments:
    """Model."""

    pretrained_model_name_or_path: str = field(
        metadata={"help": "policy and reference, SD 1.x, 2.x or XL: hub id or folder of a pipeline"}
    )
    pretrained_vae_model_name_or_path: str | None = field(
        default=None, metadata={"help": "VAE that replaces the pipeline's"}
    )
    revision: str | None = field(default=None, metadata={"help": "of the hub's repository"})
    variant: str | None = field(default=None, metadata={"help": "of the weights' files: fp16 …"})


@dataclass
class DataArguments(PairingConfig):
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
        default=False, metadata={"help": "crop at random positions, not in the centre"}
    )
    proportion_empty_prompts: float = field(
        default=0.2, metadata={"help": "share of captions that are dropped, for guidance"}
    )
    scorer: str | None = field(
        default=None,
        metadata={
            "help": "relabel the pairs: pickscore, clip, aesthetics (or one of them =MODEL), "
            "package.module:function of (captions, paths)"
        },
    )
    check_images: bool = field(
        default=True, metadata={"help": "decode every image before training"}
    )
    skip_unreadable: bool = field(
        default=False, metadata={"help": "drop pairs with an image that cannot be decoded"}
    )
    cache_latents: bool = field(
        default=False, metadata={"help": "encode images and captions once, and cache them"}
    )
    cache_dir: str = field(
        default="runs/cache", metadata={"help": "of latents and scores; runs share it"}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.dataset_name:
            raise ValueError("--dataset is needed: a hub id, a file or a folder of pairs")
        if self.cache_latents and self.random_crop:
            raise ValueError("--cache_latents: random crops (--random_crop) cannot be cached")
        if self.skip_unreadable and not self.check_images:
            raise ValueError("--skip_unreadable has no effect with --check_images false")


@dataclass
class ValidationArguments:
    """Images generated during training."""

    validation_prompts: list[str] | None = field(
        default=None, metadata={"help": "prompts; default: captions of the data"}
    )
    num_validation_images: int = field(
        default=4, metadata={"help": "images, of the prompts in turn; 0: none"}
    )
    num_inference_steps: int = field(default=STEPS, metadata={"help": "denoising steps per image"})
    guidance_scale: float = field(
        default=GUIDANCE, metadata={"help": "of classifier-free guidance; 1: none"}
    )
    validation_scorers: list[str] = field(
        default_factory=list, metadata={"help": "scorers that compare policy and base"}
    )

    def __post_init__(self) -> None:
        if not self.num_validation_images and (self.validation_prompts or self.validation_scorers):
            raise ValueError("--num_validation_images 0 leaves nothing to generate and to score")


@dataclass
class TrainConfig(StableDiffusionConfig):
    """Loss and training."""

    def __post_init__(self) -> None:
        if self.output_dir is None:
            name = self.loss if self.alpha is None else f"{self.loss}-{self.alpha:g}"
            self.output_dir = "runs/sd-" + runs.file_name(name)
        super().__post_init__()


TYPES = (ModelArguments, DataArguments, ValidationArguments, TrainConfig)


def check(
    _: ModelArguments, data: DataArguments, validation: ValidationArguments, config: TrainConfig
) -> None:
    """Raises ``ValueError`` for options that have no effect together."""
    if config.validation_steps and not validation.num_validation_images:
        raise ValueError("--validation_steps has no effect with --num_validation_images 0")


def description() -> str:
    """Returns the description of the program, with the names of the options that are fdpo's."""
    names = [option.name for one in TYPES for option in option_fields(one)]
    ours = [SHORT.get(name, name) for name in names if name not in DIFFUSERS_OPTIONS]
    return (
        f"{(__doc__ or '').splitlines()[0]} fdpo's own options are {', '.join(ours)}; the others "
        "have the names and meanings of diffusers' training scripts."
    )


def load_model(args: ModelArguments, config: TrainConfig) -> StableDiffusion:
    """Loads the pipeline; frozen weights are in the dtype of ``--mixed_precision``."""
    import torch

    from fdpo.diffusion.text_to_image.pipeline import PipelineSource

    config.require_device(partial_state().device)
    dtypes = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
    dtype = dtypes[config.mixed_precision]
    unet_dtype = dtype if config.rank else torch.float32
    source = PipelineSource.from_options(vars(args))
    return source.load(partial_state().device, dtype=dtype, unet_dtype=unet_dtype)


def load_pairs(args: DataArguments) -> CaptionedPairs:
    """Loads the pairs, checks their images, and relabels them if there is a scorer."""
    from fdpo.diffusion.text_to_image.image_checks import check_images
    from fdpo.diffusion.text_to_image.load_pairs import load_captioned_pairs
    from fdpo.diffusion.text_to_image.relabel import relabelled
    from fdpo.diffusion.text_to_image.scorers import get_image_scorer

    pairs, counts = load_captioned_pairs(
        args.dataset_name, args.dataset_split_name, pairing=args, labelled=args.scorer is None,
        limit=args.max_train_samples,
    )  # fmt: skip
    if args.check_images:
        pairs, counts["unreadable"] = check_images(pairs, skip_unreadable=args.skip_unreadable)
    if args.scorer is not None:
        scorer = get_image_scorer(args.scorer, partial_state().device)
        pairs, relabelling = relabelled(pairs, scorer, args.scorer, args.cache_dir)
        counts["ties"] = relabelling["ties"]
    if is_main_process():
        print(describe({**counts, "made": len(pairs)}))
    return pairs


def make_validation(
    args: ValidationArguments, model: StableDiffusion, pairs: CaptionedPairs, resolution: int,
    config: TrainConfig,
) -> Validation | None:  # fmt: skip
    """Returns the validation that the options ask for, ``None`` without validation images."""
    from fdpo.diffusion.text_to_image.scorers import get_image_scorer, try_scorers
    from fdpo.diffusion.text_to_image.validation import Validation

    if not args.num_validation_images:
        return None
    captions = dict.fromkeys(pairs.caption(i) for i in range(min(len(pairs), 1000)))
    prompts = args.validation_prompts or list(captions)
    device = partial_state().device
    scorers = {name: get_image_scorer(name, device) for name in args.validation_scorers}
    try_scorers(scorers.values())
    return Validation(
        model,
        [prompts[i % len(prompts)] for i in range(args.num_validation_images)],
        Path(str(config.output_dir)),
        config.seed,
        scorers,
        {
            "steps": args.num_inference_steps,
            "guidance_scale": args.guidance_scale,
            "resolution": resolution,
        },
    )


def make_pair_dataset(
    args: DataArguments, model: StableDiffusion, pairs: CaptionedPairs, resolution: int,
    config: TrainConfig,
) -> TextToImagePairs:  # fmt: skip
    """Returns the training pairs, with their cache of latents if the options ask for one."""
    from fdpo.diffusion.text_to_image.dataset import TextToImagePairs
    from fdpo.diffusion.text_to_image.latents import LatentCache
    from fdpo.diffusion.text_to_image.transforms import PairTransform

    transform = PairTransform(resolution, args.random_flip, args.random_crop)
    return TextToImagePairs(
        pairs, model, transform,
        empty_prompts=args.proportion_empty_prompts,
        cache=LatentCache(args.cache_dir, model, transform) if args.cache_latents else None,
        sides=SIDES if config.compares else SIDES[:1],
    )  # fmt: skip


def save(
    trainer: DiffusionTrainer, model: StableDiffusion, folder: Path, args: ModelArguments
) -> list[str]:
    """Saves the trained model; returns the names of what was written."""
    from fdpo.diffusion.text_to_image.pipeline import load_vae
    from fdpo.diffusion.text_to_image.save import save_trained

    source: dict[str, Any] = {"revision": args.revision, "variant": args.variant}
    if args.pretrained_vae_model_name_or_path:
        source["vae"] = load_vae(args.pretrained_vae_model_name_or_path)
    return save_trained(trainer, model, folder, **source)


def evaluate(
    run: Run, trainer: DiffusionTrainer, config: TrainConfig, validation: Validation | None
) -> dict[str, float]:
    """Returns the metrics of a finished run and prints them, with a warning about κ if needed."""
    from fdpo.estimators.linearity import linearity_warning

    quantiles = trainer.quantiles()
    metrics = {"steps": trainer.step, "train_seconds": trainer.seconds, **quantiles}
    metrics["pairs_per_second"] = trainer.step * config.pairs_per_update / trainer.seconds
    if validation is not None:
        with run.reporting("validation images"):
            metrics |= validation.compare(trainer.finished(), trainer)
    for name, value in metrics.items():
        print(f"{name:28} {value:.5g}")
    if warning := linearity_warning(trainer.divergence, quantiles):
        print(f"warning: {warning}")
    return metrics


def main() -> None:
    quiet_libraries()
    model_args, data_args, validation_args, config = arguments.parse(
        TYPES, program=PROGRAM, presets="diffusion", description=description(), aliases=ALIASES,
        resets=RESETS, check=check,
    )  # fmt: skip
    if config.use_cpu:
        os.environ["ACCELERATE_USE_CPU"] = "true"
    options = arguments.resolved(model_args, data_args, validation_args, config)
    resume = config.resume_from_checkpoint
    with Run(PROGRAM, str(config.output_dir), options, resume=resume, aliases=ALIASES) as run:
        from fdpo.diffusion import DiffusionTrainer
        from fdpo.diffusion.text_to_image.card import CARD, write_card

        model = load_model(model_args, config)
        resolution = data_args.resolution or model.resolution
        model.latent_shape(resolution)
        pairs = load_pairs(data_args)
        validation = make_validation(validation_args, model, pairs, resolution, config)
        dataset = make_pair_dataset(data_args, model, pairs, resolution, config)
        trainer = DiffusionTrainer(
            model.unet, model.process, dataset, config, encode=dataset.encode
        )
        run.start()
        dataset.fill_cache()
        if validation is not None and is_main_process():
            validation.generate_base()
        validate = partial(validation.compare, trainer=trainer) if validation else None
        trainer.train(run.checkpoint, validate)
        run.exit_if(trainer.interrupts.stopped, trainer.step)
        names = save(trainer, model, run.folder, model_args)
        if is_main_process():
            metrics = evaluate(run, trainer, config, validation)
            name = f"validation/step-{trainer.step}.png"
            sheet = name if validation and (run.folder / name).exists() else None
            with run.reporting("model card"):
                write_card(
                    run.folder, model_args.pretrained_model_name_or_path, config,
                    data=data_args.dataset_name, metrics=metrics, images=sheet,
                )  # fmt: skip
            run.finish(metrics)
            if config.push_to_hub:
                with run.reporting("upload"):
                    files = [*names, CARD, *([sheet] if sheet else [])]
                    push(run.folder, config.hub_model_id, files)
        trainer.accelerator.end_training()


def push(folder: Path, hub_id: str | None, names: Sequence[str]) -> None:
    """Uploads files and folders of a run folder to the hub."""
    from fdpo.runs.hub import upload

    patterns = [pattern for name in names for pattern in (name, f"{name}/*")]
    print("uploaded to", upload(folder, hub_id or folder.name, patterns))


if __name__ == "__main__":
    main()
