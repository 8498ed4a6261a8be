"""Trainers of a tiny model, programs as modules, tiny Stable Diffusion pipelines, pair folders."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from PIL import Image

from fdpo.diffusion import DDPM, DiffusionConfig, DiffusionTrainer, Flow
from tests.diffusion.tiny import MakeTrainer, reset_accelerate, tiny_model, tiny_pairs

VOCABULARY = 2 * 256 + 2  # the bytes, alone and at a word's end, and the two marks
LENGTH = 16  # tokens of a prompt


def tiny_tokenizer() -> Any:
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import CLIPTokenizer

    letters = sorted(ByteLevel.alphabet())
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {word: i for i, word in enumerate(words)}
    return CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=LENGTH)


def tiny_text_config(**more: Any) -> dict[str, Any]:
    return {
        "vocab_size": VOCABULARY, "hidden_size": 16, "intermediate_size": 16,
        "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": LENGTH,
        "projection_dim": 8, "bos_token_id": VOCABULARY - 2, "eos_token_id": VOCABULARY - 1,
        "pad_token_id": VOCABULARY - 1, **more,
    }  # fmt: skip


def tiny_pipeline(folder: Path, xl: bool, prediction: str, channels: int = 4) -> str:
    """Saves a pipeline for images of 16 x 16 pixels; returns its name."""
    from diffusers import (
        AutoencoderKL,
        EulerDiscreteScheduler,
        PNDMScheduler,
        StableDiffusionPipeline,
        StableDiffusionXLPipeline,
        UNet2DConditionModel,
    )
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    torch.manual_seed(0)
    config = CLIPTextConfig(**tiny_text_config())
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4, sample_size=16,
    )  # fmt: skip
    unet = UNet2DConditionModel(
        sample_size=8, in_channels=channels, block_out_channels=(8, 16), layers_per_block=1,
        norm_num_groups=4, attention_head_dim=2, cross_attention_dim=32 if xl else 16,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        **({"addition_embed_type": "text_time", "addition_time_embed_dim": 4,
            "projection_class_embeddings_input_dim": 8 + 6 * 4} if xl else {}),
    )  # fmt: skip
    betas = {
        "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear",
        "steps_offset": 1, "prediction_type": prediction,
    }  # fmt: skip
    text, tokenizer = CLIPTextModel(config), tiny_tokenizer()
    if xl:
        second = CLIPTextModelWithProjection(config)
        pipeline: Any = StableDiffusionXLPipeline(
            vae, text, second, tokenizer, tiny_tokenizer(), unet, EulerDiscreteScheduler(**betas)
        )
    else:
        scheduler = PNDMScheduler(skip_prk_steps=True, set_alpha_to_one=False, **betas)
        pipeline = StableDiffusionPipeline(
            vae, text, tokenizer, unet, scheduler, None, None, requires_safety_checker=False
        )
    pipeline.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def make_trainer(tmp_path: Path) -> MakeTrainer:
    """Makes a trainer of the tiny model; options as keywords, ``flow`` for the other process."""

    def make(flow: bool = False, name: str = "run", **options: object) -> DiffusionTrainer:
        small = {
            "output_dir": str(tmp_path / name),
            "max_train_steps": 4,
            "train_batch_size": 4,
            "lr_warmup_steps": 0,
            "learning_rate": 1e-3,
            "use_cpu": True,
            "reference_cache": "off",
        }
        config = DiffusionConfig(**{**small, **options})  # type: ignore[arg-type]
        reset_accelerate()
        process = Flow() if flow else DDPM()
        return DiffusionTrainer(tiny_model(), process, tiny_pairs(), config)

    return make


Pipelines = Callable[..., str]
KINDS = {
    f"{'xl' if xl else 'sd'}-{prediction[:1]}": (xl, prediction)
    for xl in (False, True)
    for prediction in ("epsilon", "v_prediction")
}


@pytest.fixture(scope="session")
def pipelines(tmp_path_factory: pytest.TempPathFactory) -> Pipelines:
    """Returns the folder of a pipeline, ``sd-e``, ``sd-v``, ``xl-e`` or ``xl-v``."""
    root = tmp_path_factory.mktemp("pipelines")

    def named(kind: str, channels: int = 4) -> str:
        folder = root / f"{kind}-{channels}"
        if not folder.exists():
            tiny_pipeline(folder, *KINDS[kind], channels)
        return str(folder)

    return named


def noisy(seed: int, size: tuple[int, int] = (20, 16), colour: str | None = None) -> Image.Image:
    """Returns an image of random pixels, around a colour if there is one."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(256, (size[1], size[0], 3), generator=generator)
    if colour is not None:
        ground = torch.tensor(Image.new("RGB", (1, 1), colour).getpixel((0, 0)))
        pixels = (3 * ground + pixels) // 4
    return Image.fromarray(pixels.byte().numpy())


@pytest.fixture
def pair_folder(tmp_path: Path) -> Path:
    """A folder of eight pairs of different sizes: red is chosen, blue rejected."""
    folder = tmp_path / "pairs"
    rows = []
    for i in range(8):
        row = {"caption": f"picture {i}"}
        for side, colour in (("chosen", "red"), ("rejected", "blue")):
            path = folder / f"{side}-{i}.png"
            path.parent.mkdir(exist_ok=True)
            noisy(i, (20 + i, 16) if side == "chosen" else (18, 24), colour).save(path)
            row[side] = path.name
        rows.append(row)
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="session")
def tiny_clip() -> Callable[[Path, str], str]:
    """Saves a CLIP model, or with ``aesthetics`` an image tower with LAION's head."""

    def save(folder: Path, kind: str) -> str:
        from transformers import (
            CLIPConfig,
            CLIPImageProcessor,
            CLIPModel,
            CLIPProcessor,
            CLIPVisionConfig,
        )

        from fdpo.diffusion.text_to_image.scorers import AestheticsModel

        if folder.exists():
            return str(folder)
        torch.manual_seed(0)
        vision = {
            "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2,
            "num_attention_heads": 2, "image_size": 16, "patch_size": 8, "projection_dim": 8,
        }  # fmt: skip
        size = {"height": 16, "width": 16}
        processor = CLIPImageProcessor(size=size, crop_size=size, do_center_crop=False)
        if kind == "aesthetics":
            AestheticsModel(CLIPVisionConfig(**vision)).save_pretrained(folder)
            processor.save_pretrained(folder)
        else:
            config = CLIPConfig(
                text_config=tiny_text_config(), vision_config=vision, projection_dim=8
            )
            CLIPModel(config).save_pretrained(folder)
            CLIPProcessor(processor, tiny_tokenizer()).save_pretrained(folder)
        return str(folder)

    return save


@pytest.fixture(scope="session")
def program() -> Callable[[str], ModuleType]:
    """Loads a program of the repository as a module."""

    def loaded(path: str) -> ModuleType:
        return importlib.import_module(
            f"fdpo.programs.{path.removesuffix('.py').replace('/', '.')}"
        )

    return loaded
