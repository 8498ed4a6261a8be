"""Pairs of captioned pictures as the trainer takes them.

What is random in a pair is drawn once for both sides: the flip, the crop, and whether the caption
is dropped. The draws are those of :class:`~fdpo.diffusion.PairDataset`, a function of the run's
seed, the epoch and the pair alone, and are the same whether latents are cached or not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fdpo.diffusion.text_to_image.latents import LatentCache
from fdpo.diffusion.text_to_image.pairs import CaptionedPairs
from fdpo.diffusion.text_to_image.pipeline import StableDiffusion
from fdpo.diffusion.text_to_image.transforms import PairTransform, decode
from fdpo.preferences.pairs import SIDES, Side


class TextToImagePairs:
    """Captioned pairs for :class:`~fdpo.diffusion.DiffusionTrainer`, and their :meth:`encode`.

    Arguments:
        pairs: The pairs.
        model: What encodes pictures and captions.
        framing: How pictures are brought to the model's size.
        empty_prompts: The share of pairs whose caption is dropped, drawn anew for every epoch.
        cache: Where they lie encoded already; by default they are encoded as they come.
        sides: The sides that training asks for.
    """

    def __init__(
        self,
        pairs: CaptionedPairs,
        model: StableDiffusion,
        framing: PairTransform,
        *,
        empty_prompts: float = 0.0,
        cache: LatentCache | None = None,
        sides: Sequence[Side] = SIDES,
    ) -> None:
        self.pairs, self.model, self.framing, self.cache = pairs, model, framing, cache
        self.empty_prompts, self.sides = empty_prompts, tuple(sides)
        self.noise_shape = model.latent_shape(framing.resolution)

    def __len__(self) -> int:
        return len(self.pairs)

    def pair(self, index: int, generator: torch.Generator) -> dict[str, Any]:
        """Returns pictures or their moments, the caption or its embeddings, and the draws."""
        cut = self.framing.draw(generator)
        dropped = torch.rand((), generator=generator).item() < self.empty_prompts
        spread = torch.randn(2, *self.noise_shape, generator=generator)
        caption = "" if dropped else self.pairs.caption(index)
        found: dict[str, Any] = {
            "noise_shape": self.noise_shape,
            "spread": dict(zip(SIDES, spread, strict=True)),
        }
        if self.cache is not None:
            kept = {s: self.cache.moments(self.pairs.read(index, s), cut.flip) for s in self.sides}
            found["text"] = self.cache.text(caption)
        else:
            kept = {side: self._framed(index, side, cut) for side in self.sides}
            found["caption"] = caption
        names = next(iter(kept.values())).keys()
        return found | {name: {side: kept[side][name] for side in self.sides} for name in names}

    def encode(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Turns a batch of pairs into latents, with shape (B, C, h, w), and their conditions."""
        text = batch["text"] if "text" in batch else self.model.text(batch["caption"])
        encoded = {key: batch[key] for key in ("index", "times", "noise")}
        for side in self.sides:
            moments = (
                batch["moments"][side]
                if "moments" in batch
                else self.model.moments(batch["pixels"][side])
            )
            mean, deviation = moments.float().unbind(1)
            encoded[side] = mean + deviation * batch["spread"][side]
        encoded["conditions"] = {
            side: self.model.conditions(text, batch["time_ids"][side]) for side in self.sides
        }
        return encoded

    def _framed(self, index: int, side: Side, cut: Any) -> dict[str, Tensor]:
        image = decode(self.pairs.read(index, side), self.pairs.where(index, side))
        pixels, time_ids = self.framing.apply(image, cut)
        return {"pixels": pixels, "time_ids": time_ids}
