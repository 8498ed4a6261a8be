"""Options of dataset/main.py: prompts, models, scorers, pairs and output."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Literal

from fdpo.cli.values import Range, require_dtype
from fdpo.preferences import PairingConfig, require_share
from fdpo.tasks import COMMANDS, PRETRAINED

PROMPTED = (
    "prompts", "num_prompts", "guidance_scale", "resolution", "dtype", "revision", "variant",
)  # fmt: skip
"""Options of images that need prompts."""
LOADING = ("model_revision", "trust_remote_code", "revision", "variant")
"""Options that load a model otherwise, which few need."""
UNPROMPTED = ("num_groups", "target", "classifier")
"""Options of images without prompts."""


@dataclass
class SourceArguments:
    """Prompts, model and scorer."""

    model: str = field(
        default=str(PRETRAINED / "imdb-gpt2"),
        metadata={"help": "model that completes the prompts: hub id or folder"},
    )
    model_revision: str | None = field(
        default=None, metadata={"help": "branch, tag or commit of the model's hub id"}
    )
    trust_remote_code: bool | None = field(
        default=None, metadata={"help": "run code of the model's repository"}
    )
    dtype: str = field(default="float32", metadata={"help": "the model's dtype, e.g. bfloat16"})
    prompts: str = field(
        default="model",
        metadata={
            "help": "model: sampled from the model; a .txt file with a prompt a line; or first "
            "words of the column text of a file (JSONL, Parquet, CSV) or hub id"
        },
    )
    num_prompts: int | None = field(
        default=None,
        metadata={"help": "prompts, chosen by the seed; default: 200 of model, else all"},
    )
    prompt_words: int = field(
        default=8, metadata={"help": "first words of a text; 0: its first sentence"}
    )
    scorer: str = field(
        default=str(PRETRAINED / "imdb-sentiment"),
        metadata={"help": "classifier (hub id or folder), vader, or package.module:function"},
    )
    scorer_label: str | None = field(
        default=None, metadata={"help": "label that counts; default: the positive, else the last"}
    )
    scorer_logit: bool = field(
        default=False, metadata={"help": "score by the label's plain logit, not its log-odds"}
    )

    def __post_init__(self) -> None:
        require_dtype(self.dtype, automatic=True)
        if self.prompts.endswith(".txt") and self.prompt_words != type(self).prompt_words:
            raise ValueError("prompt_words has no effect on the prompts of a .txt file")

    def provenance(self) -> dict[str, Any]:
        """Returns the options that describe the completions, for a card."""
        return without_unset(asdict(self))


@dataclass
class ImageArguments:
    """Images and scorer."""

    model: str = field(
        default=str(PRETRAINED / "mnist-ddpm"),
        metadata={"help": "model that generates the images: hub id or folder"},
    )
    num_groups: int = field(default=48, metadata={"help": "groups of images"})
    completions: int = field(
        default=0, metadata={"help": "images of a group; 0: 64, with --prompts 4"}
    )
    sampling_steps: int = field(default=20, metadata={"help": "evaluations of the model per image"})
    scorer: str | None = field(
        default=None,
        metadata={
            "help": "package.module:function of (prompts, paths); default: --target's odds; with "
            "--prompts also pickscore (the default), clip, aesthetics (or one of them =MODEL)"
        },
    )
    target: int = field(default=2, metadata={"help": "the digit that counts"})
    classifier: str = field(
        default=str(PRETRAINED / "mnist-classifier"), metadata={"help": "classifier of digits"}
    )
    prompts: str | None = field(
        default=None,
        metadata={
            "help": "--model is Stable Diffusion: a .txt file with a prompt a line, or a file or "
            "hub id with a column caption or prompt"
        },
    )
    num_prompts: int | None = field(default=None, metadata={"help": "the first so many prompts"})
    guidance_scale: float | None = field(
        default=None, metadata={"help": "guidance, with --prompts; default: 7.5"}
    )
    resolution: int | None = field(
        default=None, metadata={"help": "pixels, with --prompts; default: the model's"}
    )
    dtype: str | None = field(
        default=None, metadata={"help": "the model's dtype, with --prompts; default: float32"}
    )
    revision: str | None = field(
        default=None, metadata={"help": "revision of the model's hub id, with --prompts"}
    )
    variant: str | None = field(
        default=None, metadata={"help": "variant of its weights, such as fp16, with --prompts"}
    )

    RANGES: ClassVar[dict[str, Range]] = {"completions": Range(2, also=0)}

    def __post_init__(self) -> None:
        for name in UNPROMPTED if self.prompts else PROMPTED:
            if getattr(self, name) != getattr(type(self), name):
                place = "with" if self.prompts else "without"
                raise ValueError(f"--{name} has no effect {place} --prompts")
        if self.completions == 0:
            self.completions = 4 if self.prompts else 64
        if self.dtype is not None:
            require_dtype(self.dtype)

    def provenance(self) -> dict[str, Any]:
        """Returns the options that describe the images, for a card."""
        idle = UNPROMPTED if self.prompts else PROMPTED
        values = without_unset(asdict(self))
        return {name: value for name, value in values.items() if name not in idle}


@dataclass
class DatasetArguments(PairingConfig):
    """Pairs and output."""

    modality: Literal["text", "image"] = field(
        default="text",
        metadata={"help": "kind of completions; --modality image --help shows its options"},
    )
    groups: str | None = field(
        default=None, metadata={"help": "file of scored groups: only pair and split them"}
    )
    test_size: float = field(default=0.1, metadata={"help": "share of the prompts held out"})
    seed: int = field(default=0, metadata={"help": "seed of prompts, completions and split"})
    output_dir: str | None = field(
        default=None, metadata={"help": "output folder; default: runs/dataset-MODEL (or -FILE)"}
    )
    push_to_hub: str | None = field(
        default=None, metadata={"help": "hub id of a data set to upload the folder to"}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        require_share(self.test_size)


def without_unset(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns options without those of :data:`LOADING` that are not given."""
    return {n: value for n, value in values.items() if n not in LOADING or value is not None}


def plain_provenance(values: Mapping[str, Any]) -> dict[str, str]:
    """Returns options as texts for a card, without the path of this checkout."""
    return {name: str(value).removeprefix(f"{COMMANDS}/") for name, value in values.items()}
