"""Cases of the programs for Stable Diffusion, on tiny pipelines built from configurations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    EulerDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from PIL import Image
from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from tests.golden.workplace import Workplace, write_jsonl

VOCABULARY = 2 * 256 + 2  # the bytes, alone and at a word's end, and the two marks
LENGTH = 16  # tokens of a prompt
TEXT = {
    "vocab_size": VOCABULARY, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2,
    "num_attention_heads": 2, "max_position_embeddings": LENGTH, "projection_dim": 8,
    "bos_token_id": VOCABULARY - 2, "eos_token_id": VOCABULARY - 1, "pad_token_id": VOCABULARY - 1,
}  # fmt: skip
NOISE = {
    "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1,
}  # fmt: skip
LARGE = {
    "addition_embed_type": "text_time", "addition_time_embed_dim": 4,
    "projection_class_embeddings_input_dim": 8 + 6 * 4, "cross_attention_dim": 32,
}  # fmt: skip
SCORER = '''\
"""A scorer of images by their mean red."""

import numpy
from PIL import Image


def red(captions, paths):
    images = [numpy.asarray(Image.open(path).convert("RGB"), dtype=float) for path in paths]
    return [image[..., 0].mean() / 255 for image in images]
'''
SMALL = (
    "--max_train_steps", 2, "--train_batch_size", 2, "--gradient_accumulation_steps", 1,
    "--scale_lr", "false", "--lr_warmup_steps", 0, "--kappa", 100, "--logging_steps", 1,
    "--num_inference_steps", 2, "--num_validation_images", 2, "--validation_steps", 1, "--use_cpu",
)  # fmt: skip


def tokenizer() -> CLIPTokenizer:
    """Returns a tokenizer of single bytes."""
    letters = sorted(ByteLevel.alphabet())
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {word: i for i, word in enumerate(words)}
    return CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=LENGTH)


def unet(**more: Any) -> UNet2DConditionModel:
    """Returns a denoiser of latents of 8 x 8."""
    options = {"cross_attention_dim": 16, **more}
    return UNet2DConditionModel(
        sample_size=8, in_channels=4, block_out_channels=(8, 16), layers_per_block=1,
        norm_num_groups=4, attention_head_dim=2,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), **options,
    )  # fmt: skip


def vae() -> AutoencoderKL:
    """Returns an autoencoder of images of 16 x 16 pixels."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4, sample_size=16,
    )  # fmt: skip


def pipeline(xl: bool) -> Any:
    """Returns an untrained pipeline."""
    torch.manual_seed(0)
    config = CLIPTextConfig(**TEXT)
    if xl:
        texts = CLIPTextModel(config), CLIPTextModelWithProjection(config)
        noise = EulerDiscreteScheduler(**NOISE, prediction_type="v_prediction")
        return StableDiffusionXLPipeline(
            vae(), *texts, tokenizer(), tokenizer(), unet(**LARGE), noise
        )
    noise = PNDMScheduler(skip_prk_steps=True, set_alpha_to_one=False, **NOISE)
    return StableDiffusionPipeline(
        vae(), CLIPTextModel(config), tokenizer(), unet(), noise, None, None,
        requires_safety_checker=False,
    )  # fmt: skip


def image(seed: int, size: tuple[int, int], colour: tuple[int, int, int]) -> Image.Image:
    """Returns an image of random pixels around a colour."""
    rng = torch.Generator().manual_seed(seed)
    pixels = torch.randint(256, (size[1], size[0], 3), generator=rng)
    return Image.fromarray(((3 * torch.tensor(colour) + pixels) // 4).byte().numpy())


def pairs(work: Workplace) -> Path:
    """Writes a folder of eight pairs: red won, blue lost, of different sizes."""
    folder = work.folder / "pairs"
    folder.mkdir()
    rows = []
    for i in range(8):
        rows.append(
            {"caption": f"image {i}", "chosen": f"red-{i}.png", "rejected": f"blue-{i}.png"}
        )
        image(i, (20 + i, 16), (255, 0, 0)).save(folder / f"red-{i}.png")
        image(i, (18, 24), (0, 0, 255)).save(folder / f"blue-{i}.png")
    write_jsonl(folder / "train.jsonl", rows)
    (work.folder / "scorer.py").write_text(SCORER, encoding="utf-8")
    return folder


def pipelines(work: Workplace) -> dict[str, Path]:
    """Saves a pipeline of each size."""
    folders = {name: work.folder / f"pipeline-{name}" for name in ("sd", "xl")}
    for name, folder in folders.items():
        pipeline(name == "xl").save_pretrained(folder)
    return folders


def train(work: Workplace, name: str, model: str, *options: object) -> str:
    """Trains a pipeline on the pairs and returns the run's folder."""
    data, models = work.once("image-pairs", pairs), work.once("pipelines", pipelines)
    work.run(
        "train_sd", "--pretrained_model_name_or_path", models[model], "--dataset", data, *SMALL,
        *options, "--output_dir", name,
    )  # fmt: skip
    return name


def lora(work: Workplace) -> str:
    """Trains the LoRA that several cases look at."""
    return train(
        work, "sd-lora", "sd", "--rank", 2, "--lora_alpha", 6, "--loss", "jsd", "--cache_latents",
        "--learning_rate", 0.02, "--validation_scorers", "scorer:red",
    )  # fmt: skip


def run_folder(work: Workplace, folder: str) -> dict[str, Any]:
    """Reads the contents of a run folder."""
    return {
        "metrics": work.json(f"{folder}/metrics.json"),
        "log": work.rows(f"{folder}/log.jsonl"),
        "options": work.json(f"{folder}/run.json")["options"],
        "files": work.names(folder),
        "card": sorted(work.front_matter(f"{folder}/README.md")),
    }


def sd_train(work: Workplace) -> Any:
    """Trains a LoRA of a small pipeline and all weights of an XL one."""
    folder = work.once("sd-lora", lora)
    full = train(
        work, "sd-full", "xl", "--loss", "alpha", "--alpha", 0.5, "--optimizer", "adafactor",
        "--learning_rate", 1e-4, "--random_crop", "--scorer", "scorer:red",
    )  # fmt: skip
    files = [name for name in work.names(folder) if name.endswith(".safetensors")]
    files = [name for name in files if "/" not in name]
    return {
        "lora": {
            **run_folder(work, folder),
            "shapes": {name: work.shapes(f"{folder}/{name}") for name in files},
            "weights": {name: work.weights(f"{folder}/{name}") for name in files},
        },
        "full": {
            **run_folder(work, full),
            "weights": work.weights(f"{full}/unet/diffusion_pytorch_model.safetensors"),
        },
    }


def sd_compare(work: Workplace) -> Any:
    """Compares the LoRA with its pipeline on prompts."""
    folder = work.once("sd-lora", lora)
    (work.folder / "sd-prompts.txt").write_text("a red fox\na blue sea\nsnow\n", encoding="utf-8")
    work.run(
        "compare", "--model", folder, "--prompts", "sd-prompts.txt", "--scorers", "scorer:red",
        "--samples", 2, "--num_inference_steps", 2, "--output_dir", "sd-comparison",
    )  # fmt: skip
    metrics = json.loads((work.folder / "sd-comparison/metrics.json").read_text())
    return {"metrics": metrics, "files": work.names("sd-comparison")}
