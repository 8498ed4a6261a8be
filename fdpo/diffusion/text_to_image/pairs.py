"""Pairs of pictures with a caption: Pick-a-Pic's columns, or files that rows name.

A *row* holds a caption and two pictures, side 0 and side 1; a *pair* is a row of which one side
won. Pictures stay where they are, as files or in the memory-mapped table, until they are asked for.
(Kirstain et al., 2023, https://arxiv.org/abs/2305.01569)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from accelerate.utils import gather_object
from tqdm.auto import tqdm

from fdpo.diffusion.text_to_image.transforms import decode
from fdpo.preferences.pairs import SIDES, Pair, PairingConfig, Side
from fdpo.preferences.schema import preferences_from_rows, require_columns, type_name
from fdpo.runs.distributed import partial_state
from fdpo.runs.hub import is_hub_id
from fdpo.runs.rows import read_rows

COLUMNS = ("jpg_0", "jpg_1", "label_0", "caption")
LABELS = {0.0: 1, 0.5: None, 1.0: 0}  # label_0 -> the side that won


class Rows(Protocol):
    """Rows of a caption and two pictures."""

    @property
    def name(self) -> str: ...

    def __len__(self) -> int: ...

    def caption(self, row: int) -> str: ...

    def read(self, row: int, side: int) -> bytes: ...

    def where(self, row: int, side: int) -> str: ...


@dataclass(frozen=True)
class Table:
    """Rows with Pick-a-Pic's columns in a data set, from which they are read one by one."""

    table: Any
    name: str
    columns: dict[str, Any] = field(default_factory=dict, compare=False)

    def __len__(self) -> int:
        return len(self.table)

    def caption(self, row: int) -> str:
        return self._cell(row, "caption")

    def read(self, row: int, side: int) -> bytes:
        value = self._cell(row, f"jpg_{side}")
        data = value.get("bytes") if isinstance(value, Mapping) else value
        if not data:
            raise ValueError(f"{self.where(row, side)}: there is no picture")
        return data

    def where(self, row: int, side: int) -> str:
        return f"{self.name}, row {row + 1}, jpg_{side}"

    def column(self, name: str) -> list[Any]:
        """Returns all of a column that is small."""
        return self.table.select_columns([name]).to_dict()[name]

    def _cell(self, row: int, name: str) -> Any:
        # A column alone: a row of all holds both pictures.
        if name not in self.columns:
            self.columns[name] = self.table.select_columns([name])
        return self.columns[name][row][name]


@dataclass(frozen=True)
class Files:
    """Rows that name files: side 0 is the chosen, side 1 the rejected."""

    pairs: Sequence[Pair]
    folder: Path
    name: str
    numbers: Mapping[str, int]

    def __len__(self) -> int:
        return len(self.pairs)

    def caption(self, row: int) -> str:
        return str(self.pairs[row].prompt)

    def read(self, row: int, side: int) -> bytes:
        try:
            return (self.folder / self._path(row, side)).read_bytes()
        except OSError as error:
            raise ValueError(f"{self.where(row, side)}: {error.strerror}") from error

    def where(self, row: int, side: int) -> str:
        path = self._path(row, side)
        return f"{self.name}, row {self.numbers[path]}, {path}"

    def _path(self, row: int, side: int) -> str:
        return str((self.pairs[row].chosen, self.pairs[row].rejected)[side])


@dataclass(frozen=True)
class CaptionedPairs:
    """Pairs of pictures of one caption.

    Arguments:
        rows: The rows.
        winners: Of each pair, the row and the side that won.
    """

    rows: Rows
    winners: Sequence[tuple[int, int]]

    def __len__(self) -> int:
        return len(self.winners)

    def caption(self, index: int) -> str:
        return self.rows.caption(self.winners[index][0])

    def read(self, index: int, side: Side) -> bytes:
        """Returns the bytes of a picture; ``ValueError`` names row and column if there are none."""
        return self.rows.read(*self._place(index, side))

    def where(self, index: int, side: Side) -> str:
        """Says where a picture is, for errors."""
        return self.rows.where(*self._place(index, side))

    def kept(self, indices: Iterable[int]) -> CaptionedPairs:
        """Returns some of the pairs."""
        return replace(self, winners=[self.winners[index] for index in indices])

    def _place(self, index: int, side: Side) -> tuple[int, int]:
        row, winner = self.winners[index]
        return row, winner if side == "chosen" else 1 - winner


def load_pairs(
    name: str,
    split: str = "train",
    *,
    rank: PairingConfig | None = None,
    labelled: bool = True,
    limit: int | None = None,
) -> tuple[CaptionedPairs, Counter[str]]:
    """Loads pairs and counts what was made and dropped.

    Arguments:
        name: A Parquet file, a folder of such, or a hub id, with Pick-a-Pic's columns ``jpg_0``,
            ``jpg_1``, ``label_0`` (1: the first won, 0: the second, 0.5: a tie) and ``caption``;
            or a JSONL file (or a folder with ``train.jsonl``) with rows ``{caption, chosen,
            rejected}`` or ``{caption, completions, scores}``, whose pictures are paths relative to
            it; ``prompt`` may stand for ``caption``.
        split: The split of a hub id, or the name of the folder's JSONL file.
        rank: How scored groups become pairs.
        labelled: Whether the labels count; otherwise ties are kept and the winner is any.
        limit: Read only so many rows, the first.

    Raises:
        ValueError: If a row is wrong, naming it, or nothing is left.
    """
    path = Path(name)
    rank = rank or PairingConfig()
    if path.is_dir() and (path / f"{split}.jsonl").is_file():
        path = path / f"{split}.jsonl"
    if path.name.endswith((".jsonl", ".jsonl.gz")):
        return _file_pairs(path, rank, limit)
    if rank.changed():
        raise ValueError(f"{name}: {', '.join(rank.changed())} would only rank scored groups")
    table = _table(path, name, split)
    missing = [column for column in COLUMNS[: 4 if labelled else 2] if column not in table.features]
    if missing or "caption" not in table.features:
        found = ", ".join(table.features)
        raise ValueError(f"{name}: no column {', '.join(missing or ['caption'])}; found {found}")
    table = table.select(range(min(limit or len(table), len(table))))
    return _labelled_pairs(Table(_undecoded(table), name), labelled)


# --- Pick-a-Pic's columns ---


def _table(path: Path, name: str, split: str) -> Any:
    from datasets import load_dataset

    if path.is_dir() or path.suffix == ".parquet":
        files = sorted(path.rglob("*.parquet")) if path.is_dir() else [path]
        if not files or not files[0].is_file():
            what = f"neither {split}.jsonl nor *.parquet" if path.is_dir() else "no such file"
            raise ValueError(f"{name}: {what}")
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


def _undecoded(table: Any) -> Any:
    """Pictures as the bytes that they are, whether the data set knows that they are pictures."""
    from datasets import Image

    for column in COLUMNS[:2]:
        if isinstance(table.features[column], Image):
            table = table.cast_column(column, Image(decode=False))
    return table


def _labelled_pairs(rows: Table, labelled: bool) -> tuple[CaptionedPairs, Counter[str]]:
    counts = Counter(candidates=len(rows))
    winners = []
    marked = labelled and "has_label" in rows.table.features
    labels = rows.column("label_0") if labelled else [1.0] * len(rows)
    told = rows.column("has_label") if marked else [True] * len(rows)
    for row, caption in enumerate(rows.column("caption")):
        _require_caption(caption, f"{rows.name}, row {row + 1}")
        label = labels[row]
        if not told[row]:
            counts["unlabelled"] += 1
            continue
        if label not in LABELS:
            raise ValueError(
                f"{rows.name}, row {row + 1}: label_0 is {label}; allowed are 1 (jpg_0 won), 0 "
                "(jpg_1 won) and 0.5 (a tie)"
            )
        winner = LABELS[label]
        if winner is None:
            counts["ties"] += 1
        else:
            winners.append((row, winner))
    counts["made"] = len(winners)
    return _nonempty(CaptionedPairs(rows, winners), counts)


def _require_caption(caption: Any, where: str) -> None:
    if not isinstance(caption, str):
        raise ValueError(f"{where}: caption must be a text, not {type_name(caption)}")
    if not caption.strip():
        raise ValueError(f"{where}: the caption is empty")


def _nonempty(pairs: CaptionedPairs, counts: Counter[str]) -> tuple[CaptionedPairs, Counter[str]]:
    if not len(pairs):
        dropped = ", ".join(f"{n:,} {name}" for name, n in counts.items() if n)
        raise ValueError(f"{pairs.rows.name}: no pair is left ({dropped})")
    return pairs, counts


# --- files that rows name ---


def _file_pairs(
    file: Path, rank: PairingConfig, limit: int | None
) -> tuple[CaptionedPairs, Counter[str]]:
    rows = [_with_prompt(row, f"{file}, row {n}") for n, row in enumerate(read_rows(file), 1)]
    rows = rows[: limit or len(rows)]
    pairs, counts = preferences_from_rows(rows, str(file), rank)
    numbers: dict[str, int] = {}
    for number, row in enumerate(rows, 1):
        for path in row.get("completions") or (row["chosen"], row["rejected"]):
            if not isinstance(path, str) or not (file.parent / path).is_file():
                raise ValueError(f"{file}, row {number}: {path}: no such file")
            numbers.setdefault(path, number)
    found = Files(pairs, file.parent, str(file), numbers)
    return CaptionedPairs(found, [(row, 0) for row in range(len(pairs))]), counts


def _with_prompt(row: Any, where: str) -> dict[str, Any]:
    name = "caption" if isinstance(row, Mapping) and "caption" in row else "prompt"
    try:
        require_columns(row, (name,), where)
    except ValueError as error:
        raise ValueError(str(error).replace("column prompt", "column caption")) from error
    _require_caption(row[name], where)
    return {**row, "prompt": row[name]}


# --- looking at every picture ---


def readable(
    pairs: CaptionedPairs, *, skip: bool = False, threads: int = 8
) -> tuple[CaptionedPairs, int]:
    """Decodes every picture once; processes that a launcher started share them.

    Arguments:
        pairs: The pairs.
        skip: Whether a pair with a picture that cannot be read is dropped.
        threads: Pictures decoded at a time, in every process.

    Returns:
        The pairs that can be read and the number of those dropped.

    Raises:
        ValueError: If there are such, naming the first and saying how many, unless ``skip``.
    """

    def fault(index: int) -> tuple[int, str] | None:
        for side in SIDES:
            try:
                decode(pairs.read(index, side), pairs.where(index, side))
            except ValueError as error:
                return index, str(error)
        return None

    state = partial_state()
    mine = range(len(pairs))[state.process_index :: state.num_processes]
    with ThreadPoolExecutor(threads) as pool:
        found = tqdm(
            pool.map(fault, mine), "looking at the pictures", total=len(mine), unit=" pairs",
            disable=not state.is_main_process, leave=False,
        )  # fmt: skip
        faults = sorted(gather_object([one for one in found if one is not None]))
    if faults and not skip:
        others = f" (and {len(faults) - 1:,} other pairs)" if len(faults) > 1 else ""
        raise ValueError(f"{faults[0][1]}{others}; --skip_unreadable drops such pairs")
    wrong = {index for index, _ in faults}
    kept = pairs.kept(index for index in range(len(pairs)) if index not in wrong)
    counts = Counter(unreadable=len(wrong))
    return _nonempty(kept, counts)[0], len(wrong)
