r"""Stable Diffusion 1.x, 2.x and XL pipelines of diffusers: loading, encoding, generation.

An image :math:`x` becomes latents by the posterior of the VAE,
:math:`z = s(\mu(x) + \sigma(x)\,\xi)` with the pipeline's scale :math:`s`, and a caption becomes
text embeddings; the U-Net predicts :math:`\epsilon` or :math:`v` of noised latents. SDXL is also
conditioned on the size of each image and on its crop. (Rombach et al., 2022,
https://arxiv.org/abs/2112.10752; Podell et al., 2023, https://arxiv.org/abs/2307.01952)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
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
from fdpo.diffusion.text_to_image.config import GUIDANCE, STEPS
from fdpo.runs.folder import RECORD, run_options
from fdpo.runs.hub import is_hub_id

PIPELINES = ("StableDiffusionPipeline", "StableDiffusionXLPipeline")
LORA = "pytorch_lora_weights.safetensors"


class StableDiffusion:
    """The parts of a Stable Diffusion pipeline: U-Net, noise process, and frozen encoders.

    Arguments:
        pipeline: A ``StableDiffusionPipeline`` or ``StableDiffusionXLPipeline``.
        name: The hub id or folder that it was loaded from.
        device: The device of all parts.
        dtype: The dtype of the text encoders and of cached latents. The VAE stays in fp32: SDXL's
            overflows in fp16.

    Raises:
        ValueError: If the U-Net takes more than latents (inpainting), or predicts something else
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
        latents, inputs = self.vae.config.latent_channels, self.unet.config.in_channels
        if inputs != latents:
            raise ValueError(
                f"model {name}: its U-Net takes {inputs} channels, latents have {latents}: "
                "is it an inpainting model?"
            )
        # A copy, because generation sets the timesteps of the pipeline's scheduler.
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
        """Text encoders, two in SDXL."""
        both = (self.pipeline.text_encoder, getattr(self.pipeline, "text_encoder_2", None))
        return [encoder for encoder in both if encoder is not None]

    @property
    def tokenizers(self) -> list[Any]:
        """Tokenizers, one per text encoder."""
        both = (self.pipeline.tokenizer, getattr(self.pipeline, "tokenizer_2", None))
        return [tokenizer for tokenizer in both if tokenizer is not None]

    @property
    def is_xl(self) -> bool:
        return type(self.pipeline).__name__ == PIPELINES[1]

    @property
    def resolution(self) -> int:
        """Height and width of the images that the model was trained on, pixels."""
        return self.unet.config.sample_size * self.pipeline.vae_scale_factor

    def latent_shape(self, resolution: int) -> Shape:
        """Returns the shape (C, h, w) of the latents of a square image.

        Arguments:
            resolution: Height and width of the image, pixels.

        Raises:
            ValueError: If the U-Net cannot halve the latents as often as it does.
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
        r"""Returns :math:`s\mu` and :math:`s\sigma` of images, with shape (B, 2, C, h, w).

        Arguments:
            pixels: Images with values in :math:`[-1, 1]`, with shape (B, 3, H, W).
        """
        posterior = self.vae.encode(pixels.to(self.device, self.vae.dtype)).latent_dist
        moments = torch.stack([posterior.mean, posterior.std], dim=1)
        return (self.vae.config.scaling_factor * moments).to(self.dtype)

    @torch.no_grad()
    def encode_text(self, captions: Sequence[str]) -> dict[str, Tensor]:
        """Returns ``encoder_hidden_states`` of captions, with shape (B, L, W), and for SDXL their
        ``text_embeds``, with shape (B, P)."""
        with quiet_diffusers():
            embeddings = self.pipeline.encode_prompt(
                prompt=list(captions), device=self.device, num_images_per_prompt=1,
                do_classifier_free_guidance=False,
            )  # fmt: skip
        names = ("encoder_hidden_states", "", "text_embeds", "")
        return {name: value for name, value in zip(names, embeddings, strict=False) if name}

    def conditions(self, text: dict[str, Tensor], time_ids: Tensor) -> dict[str, Any]:
        """Returns the arguments of the U-Net besides latents and times.

        Arguments:
            text: The result of :meth:`encode_text`.
            time_ids: Heights and widths in pixels, with shape (B, 6): of the image, of its crop's
                corner, of the crop; only SDXL takes them.
        """
        conditions: dict[str, Any] = {"encoder_hidden_states": text["encoder_hidden_states"]}
        if self.is_xl:
            # Sizes stay in fp32: bf16 rounds 1023 pixels to 1024.
            time_ids = time_ids.to(text["text_embeds"].device)
            added = {"text_embeds": text["text_embeds"], "time_ids": time_ids}
            conditions["added_cond_kwargs"] = added
        return conditions

    def generate(
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
        """Generates an image for each prompt with the pipeline's scheduler.

        Arguments:
            unet: The U-Net, which may carry an adapter of peft.
            prompts: The prompts.
            seeds: The seed of each image's noise: equal seeds and prompts give equal images.
            steps: Denoising steps per image.
            guidance_scale: The scale of classifier-free guidance; 1: none.
            resolution: Height and width in pixels; by default the model's.
            batch_size: Images generated at a time.
            progress: The title of a progress bar; none where it is empty.
        """
        size = resolution or self.resolution
        options = {
            "num_inference_steps": steps, "guidance_scale": guidance_scale,
            "height": size, "width": size,
        }  # fmt: skip
        starts = range(0, len(prompts), batch_size)
        images: list[Image.Image] = []
        with self._using(unet):
            for start in tqdm(starts, progress, disable=not progress, leave=False):
                batch = slice(start, start + batch_size)
                images += self._generate_batch(prompts[batch], seeds[batch], options)
        return images

    @torch.no_grad()
    def _generate_batch(
        self, prompts: Sequence[str], seeds: Sequence[int], options: dict[str, Any]
    ) -> list[Image.Image]:
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        with self._autocast(), quiet_diffusers():
            latents = self.pipeline(
                prompt=list(prompts), generator=generators, output_type="latent", **options
            ).images
        latents = latents.to(self.vae.dtype) / self.vae.config.scaling_factor
        return [to_image(image) for image in self.vae.decode(latents).sample.float()]

    @contextmanager
    def _using(self, unet: nn.Module) -> Iterator[None]:
        """Puts another U-Net into the pipeline for a while."""
        previous = self.pipeline.unet
        self.pipeline.unet = unwrap_adapter(unet)
        try:
            yield
        finally:
            self.pipeline.unet = previous

    def _autocast(self) -> Any:
        if self.dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, self.dtype)


@contextmanager
def quiet_diffusers() -> Iterator[None]:
    """Hides diffusers' remarks on truncated captions and on LoRAs without a text encoder."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


def unwrap_adapter(unet: nn.Module) -> nn.Module:
    """Returns the U-Net inside peft's wrapper, with the adapter's layers in it."""
    wrapped: Any = unet
    return wrapped.get_base_model() if hasattr(unet, "get_base_model") else unet


def load_pipeline(
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
        device: The device of all parts.
        dtype: The dtype of the text encoders.
        unet_dtype: The dtype of the U-Net.
        vae: Hub id or folder of a VAE that replaces the pipeline's.
        revision: The revision of the hub's repository.
        variant: The variant of the weights' files, such as ``fp16``.

    Raises:
        ValueError: If it is no such pipeline or cannot be loaded, in one line.
    """
    kind = require_pipeline(name, revision)
    parts: dict[str, Any] = {}
    try:
        if vae is not None:
            parts["vae"] = load_vae(vae)
        if kind == PIPELINES[0]:  # the checker would replace some images with black ones
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


@dataclass(frozen=True)
class PipelineSource:
    """A pipeline as the user asked for it: its name and the options that load it.

    Attributes:
        name: Hub id or folder.
        revision: The revision of the hub's repository.
        variant: The variant of the weights' files, such as ``fp16``.
        vae: Hub id or folder of a VAE that replaces the pipeline's.
    """

    name: str
    revision: str | None = None
    variant: str | None = None
    vae: str | None = None

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> PipelineSource:
        """Returns the pipeline that the options of ``train_sd.py`` name."""
        return cls(
            options["pretrained_model_name_or_path"],
            options.get("revision"),
            options.get("variant"),
            options.get("pretrained_vae_model_name_or_path"),
        )

    @classmethod
    def from_run(cls, folder: str | Path) -> PipelineSource:
        """Returns the pipeline that the run in a folder was trained from.

        Raises:
            ValueError: If the folder holds no record of a run.
        """
        options = run_options(folder)
        if not isinstance(options.get("pretrained_model_name_or_path"), str):
            raise ValueError(f"model {folder}: no {RECORD} names the pipeline it was trained from")
        return cls.from_options(options)

    def load(
        self,
        device: torch.device | str = "cpu",
        *,
        dtype: torch.dtype = torch.float32,
        unet_dtype: torch.dtype = torch.float32,
    ) -> StableDiffusion:
        """Loads the pipeline, or a LoRA in a run folder with the pipeline it was trained from."""
        lora = Path(self.name, LORA).is_file()
        source = PipelineSource.from_run(self.name) if lora else self
        model = load_pipeline(
            source.name, device, dtype=dtype, unet_dtype=unet_dtype, vae=source.vae,
            revision=source.revision, variant=source.variant,
        )  # fmt: skip
        if lora:
            with quiet_diffusers():
                model.pipeline.load_lora_weights(self.name, weight_name=LORA)
        return model


def base_model(folder: str | Path) -> str:
    """Returns the hub id or folder of the pipeline that the run in a folder was trained from.

    Raises:
        ValueError: If the folder holds no record of a run.
    """
    return PipelineSource.from_run(folder).name


def require_pipeline(name: str, revision: str | None = None) -> str:
    """Returns the class name of a pipeline.

    Raises:
        ValueError: If it is not one of :data:`PIPELINES`.
    """
    folder = Path(name)
    if not folder.is_dir() and not is_hub_id(name):
        raise ValueError(f"model {name}: no such folder, and no hub id (owner/name)")
    if folder.is_dir() and not (folder / "model_index.json").is_file():
        raise ValueError(f"model {name}: this folder is no pipeline (no model_index.json)")
    try:
        kind = DiffusionPipeline.load_config(name, revision=revision).get("_class_name")
    except (OSError, ValueError) as error:
        raise ValueError(f"model {name}: {_first_line(error)}") from error
    if kind not in PIPELINES:
        raise ValueError(f"model {name}: is a {kind}; supported are {' and '.join(PIPELINES)}")
    return kind


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), repr(error))
