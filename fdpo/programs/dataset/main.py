"""Makes preference data: prompts, completions of a model, scores, pairs by rank, train and test.

    python dataset/main.py
    python dataset/main.py --config dataset/configs/imdb.yaml
    python dataset/main.py --groups scored.jsonl.gz --k 3 --k_top 4
    python dataset/main.py --modality image --target 2
    python dataset/main.py --modality image --model runwayml/stable-diffusion-v1-5 --prompts a.txt

With no arguments the embedded IMDb model continues openings of its own, and the embedded sentiment
classifier scores them. The folder it makes loads with ``datasets.load_dataset``. An interrupted
command goes on when it is given again; ``torchrun`` and ``accelerate launch`` share the prompts.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any, Literal

from huggingface_hub import HfApi

from fdpo import preferences, runs
from fdpo.cli import arguments
from fdpo.llm import models
from fdpo.llm.generation import feedback
from fdpo.llm.generation.prompts import own_openings, read_prompts
from fdpo.preferences import dataset as preference_sets
from fdpo.runs.distributed import keep_freed_memory, partial_state
from fdpo.scorers import get_scorer
from fdpo.tasks import COMMANDS, PRETRAINED


@dataclass
class SourceArguments:
    """Prompts, model and scorer."""

    model: str = field(
        default=str(PRETRAINED / "imdb-gpt2"),
        metadata={"help": "what completes the prompts: hub id or folder"},
    )
    dtype: str = field(default="float32", metadata={"help": "the model's dtype, e.g. bfloat16"})
    prompts: str = field(
        default="model",
        metadata={
            "help": "model: openings sampled from itself; a .txt file with a prompt a line; or "
            "openings of the column text of a file (JSONL, Parquet, CSV) or hub id"
        },
    )
    num_prompts: int | None = field(
        default=None,
        metadata={"help": "prompts, chosen by the seed; default: 200 of model, else all"},
    )
    prompt_words: int = field(
        default=8, metadata={"help": "words of an opening; 0: the first sentence of a text"}
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
        if self.prompt_words < 0:
            raise ValueError(f"prompt_words must not be below 0, but is {self.prompt_words}")
        if self.num_prompts is not None and self.num_prompts < 1:
            raise ValueError(f"num_prompts must be at least 1, not {self.num_prompts}")
        if self.prompts.endswith(".txt") and self.prompt_words != type(self).prompt_words:
            raise ValueError("prompt_words has no effect on the prompts of a .txt file")


@dataclass
class ImageArguments:
    """Pictures and scorer."""

    model: str = field(
        default=str(PRETRAINED / "mnist-ddpm"),
        metadata={"help": "what makes the pictures: hub id or folder"},
    )
    num_groups: int = field(default=48, metadata={"help": "groups of pictures"})
    completions: int = field(
        default=0, metadata={"help": "pictures of a group; 0: 64, of a prompt 4"}
    )
    sampling_steps: int = field(default=20, metadata={"help": "evaluations of the model a picture"})
    scorer: str | None = field(
        default=None,
        metadata={
            "help": "package.module:function of (prompts, paths); default: --target's odds; with "
            "--prompts pickscore (the default), clip, aesthetics (or =MODEL), too"
        },
    )
    target: int = field(default=2, metadata={"help": "the digit that counts"})
    classifier: str = field(
        default=str(PRETRAINED / "mnist-classifier"), metadata={"help": "of digits: folder"}
    )
    prompts: str | None = field(
        default=None,
        metadata={
            "help": "--model is Stable Diffusion: a .txt file with a prompt a line, or a file with "
            "a column caption or prompt"
        },
    )
    num_prompts: int | None = field(default=None, metadata={"help": "the first so many prompts"})
    guidance_scale: float | None = field(
        default=None, metadata={"help": "of the drawing, with --prompts; default: 7.5"}
    )
    resolution: int | None = field(
        default=None, metadata={"help": "pixels, with --prompts; default: the model's"}
    )
    dtype: str | None = field(
        default=None, metadata={"help": "of the model, with --prompts; default: float32"}
    )

    def __post_init__(self) -> None:
        prompted = ("num_prompts", "guidance_scale", "resolution", "dtype")
        for name in ("num_groups", "target", "classifier") if self.prompts else prompted:
            if getattr(self, name) != getattr(type(self), name):
                place = "with" if self.prompts else "without"
                raise ValueError(f"--{name} has no effect {place} --prompts")
        from fdpo.tasks.mnist import require_digit

        if self.completions == 0:
            self.completions = 4 if self.prompts else 64
        for name, least in {"num_groups": 1, "completions": 2, "sampling_steps": 1}.items():
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, not {getattr(self, name)}")
        require_digit(self.target)

    def facts(self) -> dict[str, Any]:
        """The options that have an effect, for a card."""
        idle = {"num_groups", "target", "classifier"}
        if not self.prompts:
            idle = {"prompts", "num_prompts", "guidance_scale", "resolution", "dtype"}
        return {name: value for name, value in asdict(self).items() if name not in idle}


@dataclass
class DatasetArguments(preferences.PairingConfig):
    """Pairs and output."""

    modality: Literal["text", "image"] = field(
        default="text", metadata={"help": "what is made; --modality image --help shows its options"}
    )
    groups: str | None = field(
        default=None, metadata={"help": "file of scored groups: only pair and split them"}
    )
    test_size: float = field(default=0.1, metadata={"help": "share of the prompts held out"})
    seed: int = field(default=0, metadata={"help": "seed of prompts, completions and split"})
    output_dir: str | None = field(
        default=None, metadata={"help": "folder to make; default: runs/dataset-MODEL (or -FILE)"}
    )
    push_to_hub: str | None = field(
        default=None, metadata={"help": "hub id of a data set to upload the folder to"}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        preferences.require_share(self.test_size)


def main() -> None:
    described = (__doc__ or "").split("\n")[0]
    if pictures_wanted():
        what, own = arguments.parse(
            (ImageArguments, DatasetArguments),
            program="main.py --modality image",
            presets="dataset",
            description=described.replace("completions of a model", "pictures of a model"),
            check=require_effect,
        )
        options = arguments.resolved(what, own)
        made_by = Path(what.model).name + ("" if what.prompts else f"-{what.target}")
        make = partial(generate_prompted if what.prompts else generate_pictures, what, own)
    else:
        source, how, own = arguments.parse(
            (SourceArguments, feedback.CompletionArguments, DatasetArguments),
            program="main.py",
            presets="dataset",
            description=described,
            check=require_effect,
        )
        options = arguments.resolved(source, how, own)
        made_by = Path(source.model).name
        make = partial(generate_texts, source, how, own)
    name = Path(own.groups).name.split(".")[0] if own.groups else made_by
    folder = Path(own.output_dir or f"runs/dataset-{name}")
    try:
        counts = pair(own, folder, options) if own.groups else make(folder, options)
    except KeyboardInterrupt:
        print(f"\ninterrupted; the same command goes on with {folder}")
        sys.exit(130)
    if partial_state().is_main_process:
        report(folder, counts, own.push_to_hub)


def pictures_wanted() -> bool:
    """Whether the command line asks for pictures, which have options of their own."""
    return bool(re.search(r"--modality[= ]image\b", " ".join(sys.argv)))


def require_effect(*given: Any) -> None:
    """Refuses options that --groups, which generates nothing, would ignore."""
    *makers, own = given
    idle = [
        f"--{option.name}"
        for options in makers
        for option in fields(options)
        if own.groups and getattr(options, option.name) != option.default
    ]
    if idle:
        raise ValueError(f"no effect with --groups, whose scores exist: {', '.join(idle)}")
    if (own.modality == "image") != pictures_wanted():
        raise ValueError("modality belongs on the command line: it decides on the options")
    without_prompts = pictures_wanted() and not makers[0].prompts
    if without_prompts and own.test_size != DatasetArguments.test_size:
        raise ValueError("test_size has no effect: these pictures have no prompts to split by")


def start(folder: Path, options: dict[str, Any]) -> bool:
    """Makes the folder or goes on with it; says whether its data set is complete."""
    started = (folder / runs.RECORD).exists()
    if (
        partial_state().is_main_process
        and not started
        and folder.is_dir()
        and any(folder.iterdir())
    ):
        raise ValueError(f"--output_dir {folder} holds something else: choose another")
    runs.prepare(folder, options, resume="parts" if started else None)
    return (folder / "README.md").exists()


def pair(own: DatasetArguments, folder: Path, options: dict[str, Any]) -> Counter[str]:
    """Pairs and splits scored groups of a file."""
    file = str(own.groups)
    with arguments.usage_errors("main.py"):
        groups = preferences.read_groups(file)
        preferences.make_pairs(groups, **own.ranking(), source=file)
        if start(folder, options):
            return Counter()
    facts = {"groups": Path(file).name} | pairing(own)
    return preference_sets.write_dataset(folder, groups, facts=facts, seed=own.seed, **pairing(own))


def generate_texts(
    source: SourceArguments,
    how: feedback.CompletionArguments,
    own: DatasetArguments,
    folder: Path,
    options: dict[str, Any],
) -> Counter[str]:
    """Completes, scores, pairs and splits."""
    words, parts = source.prompt_words or None, folder / "parts"
    with arguments.usage_errors("main.py"):
        tokenizer = models.load_tokenizer(source.model)
        model = models.load_model(source.model, partial_state().device, source.dtype)
        scorer = get_scorer(
            source.scorer,
            label=source.scorer_label,
            logit=source.scorer_logit,
            device=partial_state().device,
        )
        asked = [""]
        if source.prompts != "model":
            asked = read_prompts(source.prompts, words=words, n=source.num_prompts, seed=own.seed)
        feedback.check(model, tokenizer, asked, scorer, how)
        if start(folder, options):
            return Counter()
        if source.prompts == "model":
            n = source.num_prompts or 200
            asked = own_openings(model, tokenizer, n, words=words, seed=own.seed, parts=parts)
            feedback.check(model, tokenizer, asked, scorer, how)
    facts = plain(asdict(source) | how.facts() | pairing(own) | {"seed": own.seed})
    return feedback.make_dataset(
        folder, model, tokenizer, asked, scorer, how, seed=own.seed, facts=facts, **pairing(own)
    )


def generate_pictures(
    what: ImageArguments, own: DatasetArguments, folder: Path, options: dict[str, Any]
) -> Counter[str]:
    """Samples, scores and pairs."""
    from fdpo.diffusion import models
    from fdpo.tasks import mnist_feedback as feedback
    from fdpo.tasks.mnist_classifier import load_classifier

    keep_freed_memory()
    device = partial_state().device
    with arguments.usage_errors("main.py"):
        model, process = models.load_image_model(what.model, device)
        if what.scorer:
            scorer = get_scorer(what.scorer)
        else:
            classifier = load_classifier(what.classifier, device)
            scorer = feedback.digit_scorer(classifier, what.target, models.image_shape(model))
        if start(folder, options):
            return Counter()
    facts = plain(what.facts() | own.ranking() | {"seed": own.seed})
    return feedback.make_dataset(
        folder, model, process, scorer, groups=what.num_groups, completions=what.completions,
        steps=what.sampling_steps, seed=own.seed, facts=facts, **own.ranking(),
    )  # fmt: skip


def generate_prompted(
    what: ImageArguments, own: DatasetArguments, folder: Path, options: dict[str, Any]
) -> Counter[str]:
    """Draws prompts with Stable Diffusion, scores, pairs and splits."""
    import torch

    from fdpo.diffusion.text_to_image import feedback as picture_feedback
    from fdpo.diffusion.text_to_image.pipeline import GUIDANCE, load_trained
    from fdpo.diffusion.text_to_image.prompts import read_prompts
    from fdpo.diffusion.text_to_image.scorers import get_image_scorer

    device = partial_state().device
    with arguments.usage_errors("main.py"):
        asked = read_prompts(str(what.prompts), what.num_prompts)
        dtype = getattr(torch, what.dtype or "float32", None)
        if not isinstance(dtype, torch.dtype):
            raise ValueError(f"--dtype {what.dtype}: torch has no such dtype")
        model = load_trained(what.model, device, dtype)
        resolution = what.resolution or model.resolution
        model.latent_shape(resolution)
        scorer = get_image_scorer(what.scorer or "pickscore", device)
        if start(folder, options):
            return Counter()
    drawing = {
        "steps": what.sampling_steps,
        "guidance_scale": GUIDANCE if what.guidance_scale is None else what.guidance_scale,
        "resolution": resolution,
    }
    how = own.ranking() | {"test_size": own.test_size}
    facts = plain(what.facts() | drawing | how | {"seed": own.seed})
    return picture_feedback.make_dataset(
        folder, model, asked, scorer, completions=what.completions, drawing=drawing,
        seed=own.seed, facts=facts, **how,
    )  # fmt: skip


def plain(facts: dict[str, Any]) -> dict[str, str]:
    """Facts for a card, without the path of this checkout."""
    return {name: str(value).removeprefix(f"{COMMANDS}/") for name, value in facts.items()}


def pairing(own: DatasetArguments) -> dict[str, Any]:
    """How groups become pairs and splits; pictures have no prompts to split by."""
    test_size = 0.0 if own.modality == "image" else own.test_size
    return own.ranking() | {"test_size": test_size}


def report(folder: Path, counts: Counter[str], hub_id: str | None) -> None:
    """Says what was made, shows a pair, and uploads the folder if that was asked for."""
    print(preferences.describe(counts) if counts else f"{folder} was complete already")
    first = preferences.read_pairs(folder / "train.jsonl")[0]
    print(f"\nprompt    {first.prompt!r}")
    print(f"chosen    {first.chosen!r} (score {first.chosen_score:.3f})")
    print(f"rejected  {first.rejected!r} (score {first.rejected_score:.3f})\n")
    print(f"datasets.load_dataset({str(folder)!r}) loads it; {folder / 'README.md'} says more")
    if hub_id:
        files = ["README.md", "*.jsonl", "pictures/*.png"]
        HfApi().create_repo(hub_id, repo_type="dataset", exist_ok=True)
        HfApi().upload_folder(
            repo_id=hub_id, repo_type="dataset", folder_path=folder, allow_patterns=files
        )
        print(f"uploaded to {hub_id}")


if __name__ == "__main__":
    main()
