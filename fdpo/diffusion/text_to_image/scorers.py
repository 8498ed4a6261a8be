r"""Scorers of image files: PickScore, CLIP, aesthetics, or a user's function.

A scorer is a function (prompts, paths) -> scores, larger is better (:mod:`fdpo.scorers`):

- ``pickscore`` and ``clip``: :math:`e^s \cos(\text{caption}, \text{image})` under a CLIP model with
  logit scale :math:`s`. (Kirstain et al., 2023, https://arxiv.org/abs/2305.01569; Radford et al.,
  2021, https://arxiv.org/abs/2103.00020)
- ``aesthetics``: LAION's predictor, a small network on the direction of CLIP's image embedding,
  about 1 to 10; it ignores the caption. (Schuhmann et al., 2022, https://arxiv.org/abs/2210.08402)
- ``NAME=MODEL``: one of them with the weights of another hub id or a folder;
- ``package.module:function``: anything else. Packages such as HPS v2 and ImageReward pin versions
  that conflict with ours; docs/stable-diffusion.md shows how to call them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor, nn
from transformers import AutoProcessor, CLIPImageProcessor, CLIPModel, CLIPVisionModelWithProjection

from fdpo.diffusion.images import decode_image
from fdpo.runs.hub import is_hub_id
from fdpo.scorers import Scorer, checked, get_scorer

BATCH = 32  # images scored at a time


class ClipScorer:
    """Agreement of images with captions under a CLIP model."""

    def __init__(self, model: str, processor: str | None, device: torch.device | str) -> None:
        self.model = CLIPModel.from_pretrained(model, use_safetensors=True).to(device).eval()
        self.processor = AutoProcessor.from_pretrained(processor or model, trust_remote_code=False)

    @torch.no_grad()
    def __call__(self, prompts: Sequence[str], images: list[Image.Image]) -> Tensor:
        length = self.model.config.text_config.max_position_embeddings
        inputs = self.processor(
            text=list(prompts), images=images, return_tensors="pt", padding=True, truncation=True,
            max_length=length,
        ).to(self.model.device)  # fmt: skip
        outputs = self.model(**inputs)
        cosines = (outputs.text_embeds * outputs.image_embeds).sum(1)
        return self.model.logit_scale.exp() * cosines


class AestheticsModel(CLIPVisionModelWithProjection):
    """CLIP's image encoder with LAION's head of five linear layers."""

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
        """Returns the scores of images, with shape (B)."""
        embeds = self(pixel_values).image_embeds
        return self.layers(embeds / embeds.norm(dim=-1, keepdim=True))[:, 0]


class AestheticsScorer:
    """Aesthetic quality of images; the captions do not count."""

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


class ScorerKind(NamedTuple):
    """A kind of scorer: its class, its published weights, and the hub id of their processor."""

    scorer: Callable[..., Any]
    weights: str
    processor: str | None = None


KINDS = {
    "pickscore": ScorerKind(
        ClipScorer, "yuvalkirstain/PickScore_v1", "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"
    ),
    "clip": ScorerKind(ClipScorer, "openai/clip-vit-large-patch14"),
    "aesthetics": ScorerKind(
        AestheticsScorer, "shunk031/aesthetics-predictor-v2-sac-logos-ava1-l14-linearMSE"
    ),
}
"""Scorers by name."""


def get_image_scorer(spec: str, device: torch.device | str = "cpu") -> Scorer:
    """Returns the scorer that ``spec`` names (see the module).

    Raises:
        ValueError: If there is no such scorer, or its weights cannot be loaded.
    """
    name, _, model = spec.partition("=")
    if name not in KINDS:
        if ":" not in spec:
            known = ", ".join(KINDS)
            raise ValueError(f"scorer {spec}: neither {known} nor package.module:function")
        return get_scorer(spec)
    kind = KINDS[name]
    if model and not Path(model).is_dir() and not is_hub_id(model):
        raise ValueError(f"scorer {spec}: no such folder, and no hub id (owner/name)")
    try:
        score_images = kind.scorer(model or kind.weights, None if model else kind.processor, device)
    except (OSError, ValueError, TypeError) as error:
        reason = str(error).strip().split("\n")[0]
        raise ValueError(f"scorer {spec}: cannot be loaded ({reason})") from error
    return checked(_file_scorer(score_images), spec)


def try_scorers(scorers: Iterable[Scorer]) -> None:
    """Scores a blank image by each scorer, so that one that fails does so before the work."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "blank.png"
        Image.new("RGB", (64, 64), "grey").save(path)
        for scorer in scorers:
            scorer(["a photo"], [str(path)])


def _file_scorer(score_images: Callable[..., Tensor]) -> Scorer:
    """Returns a scorer of image files, a batch at a time."""

    def score(prompts: Sequence[str], paths: Sequence[str]) -> list[float]:
        scores: list[float] = []
        for start in range(0, len(paths), BATCH):
            batch = slice(start, start + BATCH)
            images = [decode_image(Path(path).read_bytes(), path) for path in paths[batch]]
            scores += score_images(prompts[batch], images).float().tolist()
        return scores

    return score
