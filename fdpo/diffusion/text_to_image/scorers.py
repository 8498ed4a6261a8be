r"""Scorers of picture files: PickScore, CLIP, aesthetics, or a function of one's own.

Like every scorer (:mod:`fdpo.scorers`) one is a function (prompts, paths) -> scores, larger is
better:

- ``pickscore`` and ``clip``: :math:`e^s \cos(\text{caption}, \text{picture})` of a CLIP model with
  logit scale :math:`s`. (Kirstain et al., 2023, https://arxiv.org/abs/2305.01569; Radford et al.,
  2021, https://arxiv.org/abs/2103.00020)
- ``aesthetics``: LAION's predictor, a small network on the direction of CLIP's picture embedding,
  about 1 to 10, whatever the caption. (Schuhmann et al., 2022, https://arxiv.org/abs/2210.08402)
- ``NAME=MODEL``: one of them with the weights of another hub id or a folder;
- ``package.module:function``: anything else. Packages such as HPS v2 and ImageReward pin versions
  that cannot stand beside ours; docs/stable-diffusion.md shows how to call them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from transformers import AutoProcessor, CLIPImageProcessor, CLIPModel, CLIPVisionModelWithProjection

from fdpo.diffusion.text_to_image.transforms import decode
from fdpo.runs.hub import is_hub_id
from fdpo.scorers import Scorer, checked, get_scorer

BATCH = 32  # pictures scored at a time


class ClipScorer:
    """The agreement of pictures with captions under a CLIP model."""

    def __init__(self, model: str, processor: str | None, device: torch.device | str) -> None:
        self.model = CLIPModel.from_pretrained(model, use_safetensors=True).to(device).eval()
        self.processor = AutoProcessor.from_pretrained(processor or model)

    @torch.no_grad()
    def __call__(self, prompts: Sequence[str], images: list[Image.Image]) -> Tensor:
        length = self.model.config.text_config.max_position_embeddings
        inputs = self.processor(
            text=list(prompts), images=images, return_tensors="pt", padding=True, truncation=True,
            max_length=length,
        ).to(self.model.device)  # fmt: skip
        found = self.model(**inputs)
        cosines = (found.text_embeds * found.image_embeds).sum(1)
        return self.model.logit_scale.exp() * cosines


class AestheticsModel(CLIPVisionModelWithProjection):
    """A CLIP picture tower with LAION's head, five linear layers."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        sizes = (config.projection_dim, 1024, 128, 64, 16, 1)
        linear = [nn.Linear(a, b) for a, b in zip(sizes, sizes[1:], strict=False)]
        # With dropout between them, as in the published weights' names: 0, 2, 4, 6, 7.
        self.layers = nn.Sequential(
            linear[0], nn.Dropout(0.2), linear[1], nn.Dropout(0.2), linear[2], nn.Dropout(0.1),
            linear[3], linear[4],
        )  # fmt: skip
        self.post_init()

    def score(self, pixel_values: Tensor) -> Tensor:
        """Returns the scores of pictures, with shape (B)."""
        embeds = self(pixel_values).image_embeds
        return self.layers(embeds / embeds.norm(dim=-1, keepdim=True))[:, 0]


class AestheticsScorer:
    """How pictures please, whatever the caption."""

    def __init__(self, model: str, processor: str | None, device: torch.device | str) -> None:
        loaded, info = AestheticsModel.from_pretrained(
            model, use_safetensors=True, output_loading_info=True
        )
        if any(name.startswith("layers") for name in info["missing_keys"]):
            raise ValueError("no weights layers.0, layers.2 … of an aesthetics predictor")
        self.model: Any = loaded.to(device).eval()
        self.processor = CLIPImageProcessor.from_pretrained(processor or model)

    @torch.no_grad()
    def __call__(self, prompts: Sequence[str], images: list[Image.Image]) -> Tensor:
        inputs = self.processor(images=images, return_tensors="pt")
        return self.model.score(inputs["pixel_values"].to(self.model.device))


KINDS: dict[str, tuple[Callable[..., Any], str, str | None]] = {
    "pickscore": (
        ClipScorer,
        "yuvalkirstain/PickScore_v1",
        "laion/CLIP-ViT-H-14-laion2B-s32B-b79K",
    ),
    "clip": (ClipScorer, "openai/clip-vit-large-patch14", None),
    "aesthetics": (
        AestheticsScorer,
        "shunk031/aesthetics-predictor-v2-sac-logos-ava1-l14-linearMSE",
        None,
    ),
}
"""Scorers by name: what makes one, its weights, and whose processor it takes if not its own."""


def get_image_scorer(spec: str, device: torch.device | str = "cpu") -> Scorer:
    """Makes the scorer that ``spec`` names (see the module); a wrong name raises ``ValueError``."""
    name, _, model = spec.partition("=")
    if name not in KINDS:
        if ":" not in spec:
            known = ", ".join(KINDS)
            raise ValueError(f"scorer {spec}: neither {known} nor package.module:function")
        return get_scorer(spec)
    make, default, processor = KINDS[name]
    if model and not Path(model).is_dir() and not is_hub_id(model):
        raise ValueError(f"scorer {spec}: no such folder, and no hub id (owner/name)")
    try:
        of_images = make(model or default, None if model else processor, device)
    except (OSError, ValueError, TypeError) as error:
        reason = str(error).strip().split("\n")[0]
        raise ValueError(f"scorer {spec}: cannot be loaded ({reason})") from error

    def score(prompts: Sequence[str], paths: Sequence[str]) -> list[float]:
        scores: list[float] = []
        for i in range(0, len(paths), BATCH):
            part = slice(i, i + BATCH)
            images = [decode(Path(path).read_bytes(), path) for path in paths[part]]
            scores += of_images(prompts[part], images).float().tolist()
        return scores

    return checked(score, spec)
