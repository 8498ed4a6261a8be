"""Preference data from an image model's own samples and a scorer.

Samples are written as PNG files and scored from there; groups of them are ranked like any others
(:mod:`fdpo.preferences`), with a path for a completion. A part of the samples is a function of the
seed and the part's number alone: an interrupted job goes on with those that are missing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fdpo.diffusion.evaluate import sample_images
from fdpo.diffusion.images import Shape, read_image, write_image
from fdpo.diffusion.noise import NoiseProcess
from fdpo.preferences.dataset import write_dataset
from fdpo.preferences.pairs import Group
from fdpo.runs.distributed import partial_state
from fdpo.runs.seeds import derived_seed
from fdpo.scorers import Scorer
from fdpo.tasks.mnist_classifier import DigitClassifier, judge

PART = 256  # pictures sampled at a time


def digit_scorer(classifier: DigitClassifier, digit: int, shape: Shape) -> Scorer:
    """Returns a scorer of picture files: the log-odds that they show a digit."""

    def score(prompts: Sequence[str], paths: Sequence[str]) -> list[float]:
        pictures = torch.stack([read_image(path, shape) for path in paths])
        return judge(classifier, pictures).scores(digit).tolist()

    return score


def write_samples(
    folder: Path, model: nn.Module, process: NoiseProcess, n: int, *, steps: int, seed: int
) -> list[str]:
    """Samples n pictures into ``folder / "pictures"``; returns their paths within the folder.

    Processes that a launcher started share the parts between them.
    """
    paths = [f"pictures/{i:06}.png" for i in range(n)]
    state = partial_state()
    for part in range(0, n, PART)[state.process_index :: state.num_processes]:
        names = paths[part : part + PART]
        if (folder / names[-1]).exists():  # written last
            continue
        pictures = sample_images(
            model, process, len(names), steps=steps, seed=derived_seed(seed, part),
            progress=f"sampling pictures {part} to {part + len(names)} of {n}",
        )  # fmt: skip
        for name, picture in zip(names, pictures, strict=True):
            write_image(folder / name, picture)
    state.wait_for_everyone()
    return paths


def make_dataset(
    folder: Path,
    model: nn.Module,
    process: NoiseProcess,
    scorer: Scorer,
    *,
    groups: int,
    completions: int,
    steps: int,
    seed: int,
    facts: Mapping[str, object],
    **ranking: Any,
) -> Counter[str]:
    """Samples, scores and pairs, into a folder that ``fdpo.diffusion`` trains on.

    Arguments:
        folder: Where to; what an interrupted call left there is kept.
        model: What makes the pictures.
        process: Its noising process.
        scorer: What scores the files of the pictures.
        groups: The number of groups.
        completions: Pictures of a group.
        steps: Evaluations of the model for a picture.
        seed: The seed of the noise.
        facts: What the data set's card says of how it was made.
        ranking: Which pictures of a group meet (:func:`fdpo.preferences.make_pairs`).
    """
    n = groups * completions
    paths = write_samples(folder, model, process, n, steps=steps, seed=seed)
    if not partial_state().is_main_process:
        return Counter()
    scored = []
    for first in range(0, n, completions):
        members = paths[first : first + completions]
        scores = scorer([""] * len(members), [str(folder / path) for path in members])
        scored.append(Group("", members, scores, [False] * len(members)))
    return write_dataset(
        folder, scored, facts=facts, test_size=0.0, seed=seed,
        task="unconditional-image-generation", **ranking,
    )  # fmt: skip
