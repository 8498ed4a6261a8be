"""Labels of image pairs by a scorer: AI feedback on existing pairs."""

from __future__ import annotations

import hashlib
import importlib.util
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from accelerate.utils import gather_object

from fdpo.diffusion.text_to_image.pairs import CaptionedPairs
from fdpo.runs.cache import cached, fingerprint
from fdpo.runs.distributed import sharded
from fdpo.runs.rows import read_rows, write_rows
from fdpo.scorers import Scorer

PART = 128  # images scored at a time


def relabelled(
    pairs: CaptionedPairs, scorer: Scorer, spec: str, folder: str | Path
) -> tuple[CaptionedPairs, Counter[str]]:
    """Returns pairs whose winner is the image with the higher score, and counts the ties.

    An image with its caption is scored once; the scores are cached. The processes of a launcher
    share the work.

    Arguments:
        pairs: The pairs; their present winners do not matter.
        scorer: The scorer.
        spec: Its name.
        folder: The folder of the cache.

    Raises:
        ValueError: If every pair is a tie.
    """
    keys = [tuple(_key(pairs, row, side) for side in (0, 1)) for row, _ in pairs.winners]
    places = {
        key: (row, side)
        for (row, _), both in zip(pairs.winners, keys, strict=True)
        for side, key in enumerate(both)
    }
    cache = Path(folder) / f"scores-{scorer_key(spec)}"
    scores = _scores(pairs, places, scorer, cache, f"scoring by {spec}")
    winners = [
        (row, int(scores[second] > scores[first]))
        for (row, _), (first, second) in zip(pairs.winners, keys, strict=True)
        if scores[first] != scores[second]
    ]
    ties = len(pairs) - len(winners)
    if not winners:
        raise ValueError(f"scorer {spec}: scores both images of all {ties:,} pairs the same")
    counts = Counter(candidates=len(pairs), ties=ties, made=len(winners))
    return CaptionedPairs(pairs.rows, winners), counts


def _key(pairs: CaptionedPairs, row: int, side: int) -> str:
    """Returns a digest of an image and its caption."""
    digest = hashlib.sha256(pairs.rows.caption(row).encode())
    digest.update(hashlib.sha256(pairs.rows.read(row, side)).digest())
    return digest.hexdigest()[:32]


def _scores(
    pairs: CaptionedPairs,
    places: Mapping[str, tuple[int, int]],
    scorer: Scorer,
    cache: Path,
    title: str,
) -> dict[str, float]:
    """Returns the scores of captioned images by key, a cached file for each part of them."""
    keys = list(places)
    parts = [keys[i : i + PART] for i in range(0, len(keys), PART)]

    def compute(part: Sequence[str]) -> dict[str, float]:
        name = hashlib.sha256("".join(part).encode()).hexdigest()
        scores = cached(
            cache / f"{name}.jsonl",
            lambda: _score_images(pairs, [places[key] for key in part], scorer),
            read=lambda file: _read_scores(file, len(part)),
            write=lambda file, scores: write_rows(file, ({"score": score} for score in scores)),
        )
        return dict(zip(part, scores, strict=True))

    mine = sharded(parts, compute, title=title, size=len, unit="images")
    shared: list[dict[str, float]] = gather_object(mine)
    return {key: score for scores in shared for key, score in scores.items()}


def _read_scores(file: Path, n: int) -> list[float]:
    scores = [row["score"] for row in read_rows(file)]
    if len(scores) != n or not all(isinstance(score, int | float) for score in scores):
        raise ValueError(f"it holds no {n:,} scores")
    return scores


def _score_images(
    pairs: CaptionedPairs, places: Sequence[tuple[int, int]], scorer: Scorer
) -> list[float]:
    """Scores images as files, because scorers take paths."""
    with TemporaryDirectory() as scratch:
        paths = [Path(scratch) / f"{i:03}.png" for i in range(len(places))]
        for path, place in zip(paths, places, strict=True):
            path.write_bytes(pairs.rows.read(*place))
        captions = [pairs.rows.caption(row) for row, _ in places]
        return scorer(captions, [str(path) for path in paths])


def scorer_key(spec: str) -> str:
    """Returns a name for a scorer: a digest of its spec and of its local weights or code."""
    name, _, model = spec.partition("=")
    if model and Path(model).is_dir():
        from safetensors.torch import load_file

        files = sorted(Path(model).glob("*.safetensors"))
        weights = (item for file in files for item in load_file(file).items())
        return fingerprint(weights, spec)
    module = importlib.util.find_spec(name.partition(":")[0]) if ":" in name else None
    code = Path(module.origin or "") if module else Path()
    return fingerprint((), spec, code.read_bytes() if code.is_file() else None)
