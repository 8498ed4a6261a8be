"""Training pairs of captioned images: transformed, encoded into latents, with their conditions.

Flip, crop and dropping the caption are random once for both sides of a pair. They are a function of
the run's seed, the epoch and the pair alone (:class:`~fdpo.diffusion.PairDataset`), the same
whether latents are cached or not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fdpo.diffusion.images import decode_image
from fdpo.diffusion.text_to_image.latents import LatentCache
from fdpo.diffusion.text_to_image.pairs import CaptionedPairs
from fdpo.diffusion.text_to_image.pipeline import StableDiffusion
from fdpo.diffusion.text_to_image.transforms import Crop, PairTransform
from fdpo.preferences.pairs import SIDES, Side


class TextToImagePairs:
    """Captioned pairs for :class:`~fdpo.diffusion.DiffusionTrainer`, and their :meth:`encode`.

    Arguments:
        pairs: The pairs.
        model: The pipeline that encodes images and captions.
        transform: The transform of images to the model's size.
        empty_prompts: The share of pairs whose caption is dropped, sampled for every epoch.
        cache: The cache of encoded images and captions; by default they are encoded as they come.
        sides: The sides that training needs.
    """

    def __init__(
        self,
        pairs: CaptionedPairs,
        model: StableDiffusion,
        transform: PairTransform,
        *,
        empty_prompts: float = 0.0,
        cache: LatentCache | None = None,
        sides: Sequence[Side] = SIDES,
    ) -> None:
        self.pairs, self.model, self.transform, self.cache = pairs, model, transform, cache
        self.empty_prompts, self.sides = empty_prompts, tuple(sides)
        self.noise_shape = model.latent_shape(transform.resolution)

    def __len__(self) -> int:
        return len(self.pairs)

    def pair(self, index: int, generator: torch.Generator) -> dict[str, Any]:
        """Returns a pair as :meth:`encode` takes it, without the batch's dimension.

        Returns:
            ``noise_shape``, the shape (C, h, w) of the latents; for each side ``latent_noise``,
            with shape (C, h, w), and ``time_ids``, with shape (6); and ``pixels`` of each side,
            with shape (3, H, W), with the ``caption``, or from the cache ``moments`` of each side,
            with shape (2, C, h, w), with the caption's embeddings ``text``.
        """
        crop = self.transform.sample(generator)
        dropped = torch.rand((), generator=generator).item() < self.empty_prompts
        noise = torch.randn(2, *self.noise_shape, generator=generator)
        caption = "" if dropped else self.pairs.caption(index)
        pair: dict[str, Any] = {
            "noise_shape": self.noise_shape,
            "latent_noise": dict(zip(SIDES, noise, strict=True)),
        }
        if self.cache is None:
            pair["caption"] = caption
        else:
            pair["text"] = self.cache.text(caption)
        images = {side: self._image(index, side, crop) for side in self.sides}
        names = images[self.sides[0]]
        return pair | {name: {s: images[s][name] for s in self.sides} for name in names}

    def encode(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Encodes a batch of B pairs.

        Arguments:
            batch: Pairs as :meth:`pair` returns them, collated, with ``index``, ``times`` and
                ``noise`` of :class:`~fdpo.diffusion.PairDataset`.

        Returns:
            The latents of each side, ``chosen`` and ``rejected``, with shape (B, C, h, w); the
            ``conditions`` of each side; and ``index``, ``times`` and ``noise`` of the batch.
        """
        text = batch["text"] if "text" in batch else self.model.encode_text(batch["caption"])
        encoded = {key: batch[key] for key in ("index", "times", "noise")}
        for side in self.sides:
            mean, deviation = self._moments(batch, side).float().unbind(1)
            encoded[side] = mean + deviation * batch["latent_noise"][side]
        encoded["conditions"] = {
            side: self.model.conditions(text, batch["time_ids"][side]) for side in self.sides
        }
        return encoded

    def fill_cache(self) -> None:
        """Encodes what the cache lacks; if that cannot be written, there is no cache."""
        if self.cache is not None:
            if self.cache.fill(self.pairs, sides=self.sides, captions=[""]) is None:
                self.cache = None

    def _image(self, index: int, side: Side, crop: Crop) -> Mapping[str, Tensor]:
        data = self.pairs.read(index, side)
        if self.cache is not None:
            return self.cache.image(data, crop.flip, self.pairs.where(index, side))
        image = decode_image(data, self.pairs.where(index, side))
        pixels, time_ids = self.transform.apply(image, crop)
        return {"pixels": pixels, "time_ids": time_ids}

    def _moments(self, batch: Mapping[str, Any], side: Side) -> Tensor:
        """Returns the posterior's moments of one side, with shape (B, 2, C, h, w)."""
        if "moments" in batch:
            return batch["moments"][side]
        return self.model.moments(batch["pixels"][side])
