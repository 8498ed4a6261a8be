"""Loading of captioned image pairs: Pick-a-Pic's columns, or a JSONL file of image paths.

(Kirstain et al., 2023, https://arxiv.org/abs/2305.01569)
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fdpo.diffusion.text_to_image.pairs import CaptionedPairs, FileRows, TableRows
from fdpo.preferences.pairs import PairingConfig
from fdpo.preferences.schema import get_path, preferences_from_rows, require_columns, type_name
from fdpo.runs.hub import is_hub_id
from fdpo.runs.outside import note_outside
from fdpo.runs.rows import read_rows

IMAGES = ("jpg_0", "jpg_1")
LABELS = {0.0: 1, 0.5: None, 1.0: 0}  # label_0 -> the side that won


def load_captioned_pairs(
    name: str,
    split: str = "train",
    *,
    pairing: PairingConfig | None = None,
    labelled: bool = True,
    limit: int | None = None,
) -> tuple[CaptionedPairs, Counter[str]]:
    """Loads pairs and counts those that were made and dropped.

    Arguments:
        name: A Parquet file, a folder of such, or a hub id, with Pick-a-Pic's columns ``jpg_0``,
            ``jpg_1``, ``label_0`` (1: the first won, 0: the second, 0.5: a tie) and ``caption``;
            or a JSONL file (or a folder with ``train.jsonl``) with rows ``{caption, chosen,
            rejected}`` or ``{caption, completions, scores}``, whose images are paths relative to
            it; ``prompt`` may stand for ``caption``.
        split: The split of a hub id, or the name of the folder's JSONL file.
        pairing: The rule that makes pairs of scored groups.
        labelled: True if the labels count; otherwise ties stay and the winner is arbitrary.
        limit: The number of rows to read, from the first; by default all.

    Raises:
        ValueError: If a row is wrong, naming it, or no pair is left.
    """
    path = Path(name)
    pairing = pairing or PairingConfig()
    if path.is_dir() and (path / f"{split}.jsonl").is_file():
        path = path / f"{split}.jsonl"
    if path.name.endswith((".jsonl", ".jsonl.gz")):
        return _pairs_of_files(path, pairing, limit)
    if pairing.changed():
        options = ", ".join(pairing.changed())
        raise ValueError(f"{name}: {options} would only rank scored groups")
    return _pairs_of_table(_load_table(path, name, split), name, labelled, limit)


def require_pairs(
    pairs: CaptionedPairs, counts: Counter[str]
) -> tuple[CaptionedPairs, Counter[str]]:
    """Returns pairs and counts, or raises ``ValueError`` with the counts if no pair is left."""
    if not len(pairs):
        dropped = ", ".join(f"{n:,} {name}" for name, n in counts.items() if n)
        raise ValueError(f"{pairs.rows.name}: no pair is left ({dropped})")
    return pairs, counts


# --- Pick-a-Pic's columns ---


def _load_table(path: Path, name: str, split: str) -> Any:
    from datasets import load_dataset

    if path.is_dir() or path.suffix == ".parquet":
        files = sorted(path.rglob("*.parquet")) if path.is_dir() else [path]
        if not files or not files[0].is_file():
            missing = f"neither {split}.jsonl nor *.parquet" if path.is_dir() else "no such file"
            raise ValueError(f"{name}: {missing}")
        source: dict[str, Any] = {"path": "parquet", "data_files": [str(file) for file in files]}
        split = "train"
    elif is_hub_id(name):
        source = {"path": name}
    else:
        raise ValueError(f"{name}: neither a folder, nor a Parquet or JSONL file, nor a hub id")
    try:
        return load_dataset(**source, split=split)
    except (OSError, ValueError, RuntimeError) as error:
        cause = error.__cause__ or error
        reason = str(cause).strip().split("\n")[0]
        raise ValueError(f"{name}: cannot be loaded ({reason})") from error


def _pairs_of_table(
    table: Any, name: str, labelled: bool, limit: int | None
) -> tuple[CaptionedPairs, Counter[str]]:
    needed = (*IMAGES, *(["label_0"] if labelled else []), "caption")
    if missing := [column for column in needed if column not in table.features]:
        columns = ", ".join(table.features)
        raise ValueError(f"{name}: no column {', '.join(missing)}; found {columns}")
    table = table.select(range(min(limit or len(table), len(table))))
    rows = TableRows(_without_decoding(table), name)
    captions = rows.column("caption")
    labels = rows.column("label_0") if labelled else [1.0] * len(rows)
    has_label = [True] * len(rows)
    if labelled and "has_label" in table.features:
        has_label = rows.column("has_label")
    counts = Counter(candidates=len(rows))
    winners = []
    for row, (caption, label) in enumerate(zip(captions, labels, strict=True)):
        where = f"{name}, row {row + 1}"
        _require_caption(caption, where)
        if not has_label[row]:
            counts["unlabelled"] += 1
        elif (winner := _winner(label, where)) is None:
            counts["ties"] += 1
        else:
            winners.append((row, winner))
    counts["made"] = len(winners)
    return require_pairs(CaptionedPairs(rows, winners), counts)


def _without_decoding(table: Any) -> Any:
    """Returns the table with images as bytes, also where the data set decodes them."""
    from datasets import Image

    for column in IMAGES:
        if isinstance(table.features[column], Image):
            table = table.cast_column(column, Image(decode=False))
    return table


def _winner(label: Any, where: str) -> int | None:
    if label not in LABELS:
        raise ValueError(
            f"{where}: label_0 is {label}; allowed are 1 (jpg_0 won), 0 (jpg_1 won) and 0.5 (a tie)"
        )
    return LABELS[label]


# --- files of image paths ---


def _pairs_of_files(
    file: Path, pairing: PairingConfig, limit: int | None
) -> tuple[CaptionedPairs, Counter[str]]:
    rows = [_with_prompt(row, f"{file}, row {n}") for n, row in enumerate(read_rows(file), 1)]
    rows = rows[: limit or len(rows)]
    pairs, counts = preferences_from_rows(rows, str(file), pairing)
    numbers: dict[str, int] = {}
    for number, row in enumerate(rows, 1):
        for path in row.get("completions") or (row["chosen"], row["rejected"]):
            path = get_path(path, f"{file}, row {number}: an image")
            if not os.path.isfile(file.parent / path):  # Path.is_file raises for too long a name
                raise ValueError(f"{file}, row {number}: {path[-200:]}: no such file")
            numbers.setdefault(path, number)
    note_outside(numbers, file.parent)
    files = FileRows(pairs, file.parent, str(file), numbers)
    return CaptionedPairs(files, [(row, 0) for row in range(len(pairs))]), counts


def _with_prompt(row: Any, where: str) -> dict[str, Any]:
    """Returns a row with its caption as ``prompt``."""
    only_prompt = isinstance(row, Mapping) and "prompt" in row and "caption" not in row
    name = "prompt" if only_prompt else "caption"
    require_columns(row, (name,), where)
    _require_caption(row[name], where)
    return {**row, "prompt": row[name]}


def _require_caption(caption: Any, where: str) -> None:
    if not isinstance(caption, str):
        raise ValueError(f"{where}: caption must be a text, not {type_name(caption)}")
    if not caption.strip():
        raise ValueError(f"{where}: the caption is empty")
