r"""Stable Diffusion 1.x, 2.x and XL: a diffusers pipeline as the trainer needs it.

A picture :math:`x` becomes latents by the posterior of the VAE,
:math:`z = s(\mu(x) + \sigma(x)\,\xi)` with the pipeline's scale :math:`s`, and a caption becomes
text embeddings; the U-Net predicts :math:`\epsilon` or :math:`v` of noised latents. SDXL is
conditioned on the size of each picture and on how it was cropped, too. (Rombach et al., 2022,
https://arxiv.org/abs/2112.10752; Podell et al., 2023, https://arxiv.org/abs/2307.01952)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DiffusionPipeline
from diffusers.utils import logging
from PIL import Image
from torch import Tensor, nn
from tqdm.auto import tqdm

from fdpo.diffusion.images import Shape, to_image
from fdpo.diffusion.noise import NoiseProcess, process_from_scheduler
from fdpo.runs.files import read_json
from fdpo.runs.folder import RECORD
from fdpo.runs.hub import is_hub_id

PIPELINES = ("StableDiffusionPipeline", "StableDiffusionXLPipeline")
LORA = "pytorch_lora_weights.safetensors"
STEPS, GUIDANCE = 50, 7.5  # of drawing, as in diffusers' pipeline


class StableDiffusion:
    """A pipeline taken apart: U-Net, noising process, and the encoders that stay as they are.

    Arguments:
        pipeline: A ``StableDiffusionPipeline`` or ``StableDiffusionXLPipeline``.
        name: Where it came from: hub id or folder.
        device: Where to.
        dtype: The dtype of the text encoders and of kept latents. The VAE stays in fp32: SDXL's
            overflows in fp16.

    Raises:
        ValueError: If its U-Net takes more than latents (inpainting), or predicts something else
            than epsilon or v.
    """

    def __init__(
        self,
        pipeline: Any,
        name: str,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.pipeline, self.name = pipeline, name
        self.device, self.dtype = torch.device(device), dtype
        channels, taken = self.vae.config.latent_channels, self.unet.config.in_channels
        if taken != channels:
            raise ValueError(
                f"model {name}: its U-Net takes {taken} channels, latents have {channels}: "
                "is it an inpainting model?"
            )
        # A copy: drawing sets the pipeline's own to its steps.
        self.process: NoiseProcess = process_from_scheduler(
            type(pipeline.scheduler).from_config(pipeline.scheduler.config)
        )
        for encoder in (self.vae, *self.text_encoders):
            encoder.requires_grad_(False).eval().to(self.device)
        for encoder in self.text_encoders:
            encoder.to(dtype)
        self.unet.to(self.device)
        pipeline.set_progress_bar_config(disable=True)

    @property
    def unet(self) -> Any:
        return self.pipeline.unet

    @property
    def vae(self) -> Any:
        return self.pipeline.vae

    @property
    def text_encoders(self) -> list[Any]:
        both = (self.pipeline.text_encoder, getattr(self.pipeline, "text_encoder_2", None))
        return [encoder for encoder in both if encoder is not None]

    @property
    def tokenizers(self) -> list[Any]:
        both = (self.pipeline.tokenizer, getattr(self.pipeline, "tokenizer_2", None))
        return [tokenizer for tokenizer in both if tokenizer is not None]

    @property
    def is_xl(self) -> bool:
        return type(self.pipeline).__name__ == PIPELINES[1]

    @property
    def resolution(self) -> int:
        """Height and width of the pictures that the model was made for, pixels."""
        return self.unet.config.sample_size * self.pipeline.vae_scale_factor

    def latent_shape(self, resolution: int) -> Shape:
        """Returns the shape (C, H, W) of the latents of a picture with so many pixels a side.

        Raises:
            ValueError: If the U-Net cannot halve them as often as it does.
        """
        factor = self.pipeline.vae_scale_factor
        halvings = 2 ** (len(self.unet.config.block_out_channels) - 1)
        if resolution < 1 or resolution % (factor * halvings):
            raise ValueError(
                f"--resolution {resolution}: must be a multiple of {factor * halvings} for "
                f"{self.name}"
            )
        return self.vae.config.latent_channels, resolution // factor, resolution // factor

    @torch.no_grad()
    def moments(self, pixels: Tensor) -> Tensor:
        r"""Returns :math:`s\mu` and :math:`s\sigma` of pictures, with shape (B, 2, C, h, w).

        Arguments:
            pixels: Pictures with values in :math:`[-1, 1]`, with shape (B, 3, H, W).
        """
        posterior = self.vae.encode(pixels.to(self.device, self.vae.dtype)).latent_dist
        moments = torch.stack([posterior.mean, posterior.std], dim=1)
        return (self.vae.config.scaling_factor * moments).to(self.dtype)

    @torch.no_grad()
    def text(self, captions: Sequence[str]) -> dict[str, Tensor]:
        """Returns ``encoder_hidden_states`` of captions, with shape (B, L, W), and for SDXL their
        ``text_embeds``, with shape (B, P)."""
        with quiet():
            found = self.pipeline.encode_prompt(
                prompt=list(captions), device=self.device, num_images_per_prompt=1,
                do_classifier_free_guidance=False,
            )  # fmt: skip
        names = ("encoder_hidden_states", "", "text_embeds", "")
        return {name: value for name, value in zip(names, found, strict=False) if name}

    def conditions(self, text: dict[str, Tensor], time_ids: Tensor) -> dict[str, Any]:
        """Returns what the U-Net is called with besides latents and times.

        Arguments:
            text: What :meth:`text` returns.
            time_ids: Heights and widths in pixels with shape (B, 6): of the picture, of its crop's
                corner, of the crop; only SDXL sees them.
        """
        conditions: dict[str, Any] = {"encoder_hidden_states": text["encoder_hidden_states"]}
        if self.is_xl:
            # Sizes stay in fp32: bf16 takes 1023 pixels for 1024.
            time_ids = time_ids.to(text["text_embeds"].device)
            added = {"text_embeds": text["text_embeds"], "time_ids": time_ids}
            conditions["added_cond_kwargs"] = added
        return conditions

    @torch.no_grad()
    def draw(
        self,
        unet: nn.Module,
        prompts: Sequence[str],
        seeds: Sequence[int],
        *,
        steps: int = STEPS,
        guidance_scale: float = GUIDANCE,
        resolution: int | None = None,
        batch_size: int = 4,
        progress: str = "",
    ) -> list[Image.Image]:
        """Draws a picture of each prompt with the pipeline's own scheduler.

        Arguments:
            unet: The U-Net to draw with, which may carry an adapter of peft.
            prompts: The prompts.
            seeds: Of the noise of each picture: the same seed and prompt give the same picture.
            steps: Evaluations of the U-Net a picture.
            guidance_scale: Of classifier-free guidance; 1: none.
            resolution: Height and width, pixels; by default those of the model.
            batch_size: Pictures drawn at a time.
            progress: The title of a progress bar; none where it is empty.
        """
        size = resolution or self.resolution
        own, drawn = self.pipeline.unet, []
        self.pipeline.unet = without_adapter_shell(unet)
        parts = range(0, len(prompts), batch_size)
        try:
            for i in tqdm(parts, progress, disable=not progress, leave=False):
                part = slice(i, i + batch_size)
                with self._autocast(), quiet():
                    latents = self.pipeline(
                        prompt=list(prompts[part]), num_inference_steps=steps,
                        guidance_scale=guidance_scale, height=size, width=size,
                        generator=[torch.Generator().manual_seed(seed) for seed in seeds[part]],
                        output_type="latent",
                    ).images  # fmt: skip
                latents = latents.to(self.vae.dtype) / self.vae.config.scaling_factor
                drawn += [to_image(picture) for picture in self.vae.decode(latents).sample.float()]
        finally:
            self.pipeline.unet = own
        return drawn

    def _autocast(self) -> Any:
        if self.dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, self.dtype)


@contextmanager
def quiet() -> Iterator[None]:
    """Hides diffusers' remarks on every caption that is cut, and on LoRAs without text encoder."""
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def without_adapter_shell(unet: nn.Module) -> nn.Module:
    """Returns the U-Net itself, with the adapter's layers in it, of a model that peft wraps."""
    wrapped: Any = unet
    return wrapped.get_base_model() if hasattr(unet, "get_base_model") else unet


def load(
    name: str,
    device: torch.device | str = "cpu",
    *,
    dtype: torch.dtype = torch.float32,
    unet_dtype: torch.dtype = torch.float32,
    vae: str | None = None,
    revision: str | None = None,
    variant: str | None = None,
) -> StableDiffusion:
    """Loads a Stable Diffusion pipeline from a folder or the hub.

    Arguments:
        name: Hub id or folder.
        device: Where to.
        dtype: Of the text encoders.
        unet_dtype: Of the U-Net.
        vae: Hub id or folder of a VAE in place of the pipeline's own.
        revision: Of the hub's repository.
        variant: Of the weights' files, such as ``fp16``.

    Raises:
        ValueError: If it is no such pipeline or cannot be loaded, in one line.
    """
    kind = require_pipeline(name, revision)
    parts: dict[str, Any] = {}
    try:
        if vae is not None:
            parts["vae"] = load_vae(vae)
        if kind == PIPELINES[0]:  # a scorer is to see what was drawn, not a black picture
            parts |= {"safety_checker": None, "requires_safety_checker": False}
        pipeline = DiffusionPipeline.from_pretrained(
            name, dtype={"unet": unet_dtype, "default": torch.float32}, revision=revision,
            variant=variant, use_safetensors=True, **parts,
        )  # fmt: skip
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(f"model {name}: cannot be loaded ({_first_line(error)})") from error
    return StableDiffusion(pipeline, name, device, dtype)


def load_vae(name: str) -> AutoencoderKL:
    """Loads a VAE in fp32, from a folder or the hub."""
    return AutoencoderKL.from_pretrained(name, use_safetensors=True)


def load_trained(
    name: str, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> StableDiffusion:
    """Loads a pipeline, or a run folder with a LoRA and the pipeline that it was trained from."""
    if not Path(name, LORA).is_file():
        return load(name, device, dtype=dtype, unet_dtype=dtype)
    model = load(base_of(name), device, dtype=dtype, unet_dtype=dtype)
    with quiet():
        model.pipeline.load_lora_weights(name, weight_name=LORA)
    return model


def base_of(folder: str | Path) -> str:
    """Returns the pipeline that the run in a folder started from, as its record says."""
    record = Path(folder) / RECORD
    if not record.is_file():
        raise ValueError(f"model {folder}: holds a LoRA but no {RECORD} that names its pipeline")
    return read_json(record)["options"]["pretrained_model_name_or_path"]


def require_pipeline(name: str, revision: str | None = None) -> str:
    """Returns the class of a pipeline, or raises ``ValueError`` if it is not one of ours."""
    folder = Path(name)
    if not folder.is_dir() and not is_hub_id(name):
        raise ValueError(f"model {name}: no such folder, and no hub id (owner/name)")
    if folder.is_dir() and not (folder / "model_index.json").is_file():
        raise ValueError(f"model {name}: this folder is no pipeline (no model_index.json)")
    try:
        found = DiffusionPipeline.load_config(name, revision=revision).get("_class_name")
    except (OSError, ValueError) as error:
        raise ValueError(f"model {name}: {_first_line(error)}") from error
    if found not in PIPELINES:
        raise ValueError(f"model {name}: is a {found}; trained are {' and '.join(PIPELINES)}")
    return found


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), repr(error))
