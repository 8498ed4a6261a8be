"""AI feedback on pictures: data sets that a text-to-image model draws, and pairs labelled anew.

A picture is scored once. What was drawn and scored is kept as it comes, and an interrupted job goes
on with the rest; processes that a launcher started share the work.
"""

from __future__ import annotations

import hashlib
import importlib.util
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tqdm.auto import tqdm

from fdpo.diffusion.text_to_image.pairs import CaptionedPairs
from fdpo.diffusion.text_to_image.pipeline import StableDiffusion
from fdpo.preferences.dataset import write_dataset
from fdpo.preferences.pairs import Group
from fdpo.runs.distributed import partial_state
from fdpo.runs.files import replacing
from fdpo.runs.rows import read_rows, write_rows
from fdpo.runs.seeds import derived_seed
from fdpo.scorers import Scorer

PART = 128  # pictures scored at a time


# --- data sets ---


def make_dataset(
    folder: Path,
    model: StableDiffusion,
    prompts: Sequence[str],
    scorer: Scorer,
    *,
    completions: int,
    drawing: Mapping[str, Any],
    seed: int,
    facts: Mapping[str, object],
    **pairing: Any,
) -> Counter[str]:
    """Draws, scores and pairs, into a folder that ``diffusion/train_sd.py`` trains on.

    Arguments:
        folder: Where to; what an interrupted call left there is kept.
        model: What draws the pictures.
        prompts: The prompts.
        scorer: What scores the files of the pictures.
        completions: Pictures of a prompt.
        drawing: Options of :meth:`StableDiffusion.generate`.
        seed: The seed of the noise, and of the split.
        facts: What the data set's card says of how it was made.
        pairing: How groups become pairs (:func:`fdpo.preferences.dataset.write_dataset`).
    """
    state, parts = partial_state(), folder / "parts"
    mine = range(len(prompts))[state.process_index :: state.num_processes]
    for number in tqdm(mine, "drawing and scoring", disable=not state.is_main_process):
        part = parts / f"{number:06}.jsonl"
        if not part.exists():
            group = _drawn_group(
                folder, model, prompts[number], number, scorer, completions, drawing, seed
            )
            write_rows(part, [group.row()])
    state.wait_for_everyone()
    if not state.is_main_process:
        return Counter()
    groups = [Group(**read_rows(part)[0]) for part in sorted(parts.glob("*.jsonl"))]
    counts = write_dataset(folder, groups, facts=facts, seed=seed, task="text-to-image", **pairing)
    shutil.rmtree(parts)
    return counts


def _drawn_group(
    folder: Path,
    model: StableDiffusion,
    prompt: str,
    number: int,
    scorer: Scorer,
    completions: int,
    drawing: Mapping[str, Any],
    seed: int,
) -> Group:
    names = [f"pictures/{number:06}-{i}.png" for i in range(completions)]
    absent = [i for i, name in enumerate(names) if not (folder / name).exists()]
    seeds = [derived_seed(seed, number, i) for i in absent]
    drawn = model.generate(model.unet, [prompt] * len(absent), seeds, **drawing)
    for i, picture in zip(absent, drawn, strict=True):
        with replacing(folder / names[i]) as beside:
            picture.save(beside)
    scores = scorer([prompt] * completions, [str(folder / name) for name in names])
    return Group(prompt, names, scores, [False] * completions)


# --- pairs that exist, labelled anew ---


def relabelled(
    pairs: CaptionedPairs, scorer: Scorer, spec: str, folder: str | Path
) -> tuple[CaptionedPairs, Counter[str]]:
    """Lets a scorer say which picture of a pair won; where both score the same it is dropped.

    Arguments:
        pairs: The pairs; who won does not matter.
        scorer: The scorer.
        spec: Its name.
        folder: Where scores are kept, under the scorer and the contents of what it scored.

    Raises:
        ValueError: If every pair ties.
    """
    keys = [tuple(_key(pairs, row, side) for side in (0, 1)) for row, _ in pairs.winners]
    places = {
        key: (row, side)
        for (row, _), both in zip(pairs.winners, keys, strict=True)
        for side, key in enumerate(both)
    }
    kept = Path(folder) / f"scores-{identity(spec)}"
    scores = _scores(pairs, places, scorer, kept, f"scoring by {spec}")
    winners = [
        (row, int(scores[second] > scores[first]))
        for (row, _), (first, second) in zip(pairs.winners, keys, strict=True)
        if scores[first] != scores[second]
    ]
    ties = len(pairs) - len(winners)
    if not winners:
        raise ValueError(f"scorer {spec}: scores both pictures of all {ties:,} pairs the same")
    counts = Counter(candidates=len(pairs), ties=ties, made=len(winners))
    return CaptionedPairs(pairs.rows, winners), counts


def _key(pairs: CaptionedPairs, row: int, side: int) -> str:
    """A digest of a picture and its caption."""
    digest = hashlib.sha256(pairs.rows.caption(row).encode())
    digest.update(hashlib.sha256(pairs.rows.read(row, side)).digest())
    return digest.hexdigest()[:32]


def _scores(
    pairs: CaptionedPairs,
    places: Mapping[str, tuple[int, int]],
    scorer: Scorer,
    kept: Path,
    title: str,
) -> dict[str, float]:
    """Scores each captioned picture once, in parts that are kept under what they hold."""
    state, all_keys = partial_state(), list(places)
    parts = [all_keys[i : i + PART] for i in range(0, len(all_keys), PART)]
    files = [kept / f"{hashlib.sha256(''.join(part).encode()).hexdigest()}.jsonl" for part in parts]
    mine = list(zip(parts, files, strict=True))[state.process_index :: state.num_processes]
    for part, file in tqdm(mine, title, disable=not state.is_main_process, leave=False):
        if not file.exists():
            found = _scored(pairs, [places[key] for key in part], scorer)
            write_rows(file, ({"score": score} for score in found))
    state.wait_for_everyone()
    found = [row["score"] for file in files for row in read_rows(file)]
    return dict(zip(all_keys, found, strict=True))


def _scored(
    pairs: CaptionedPairs, places: Sequence[tuple[int, int]], scorer: Scorer
) -> list[float]:
    """Scores pictures as files: scorers take paths."""
    with TemporaryDirectory() as scratch:
        paths = [Path(scratch) / f"{i:03}.png" for i in range(len(places))]
        for path, place in zip(paths, places, strict=True):
            path.write_bytes(pairs.rows.read(*place))
        captions = [pairs.rows.caption(row) for row, _ in places]
        return scorer(captions, [str(path) for path in paths])


def identity(spec: str) -> str:
    """A digest of a scorer's name and, where they are at hand, of its code or weights."""
    facts: list[object] = [spec]
    name, _, model = spec.partition("=")
    if Path(model).is_dir() and model:
        files = sorted(Path(model).glob("*.safetensors"))
        facts += [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    elif ":" in name and (found := importlib.util.find_spec(name.partition(":")[0])):
        if found.origin and Path(found.origin).is_file():
            facts.append(Path(found.origin).read_bytes())
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]
