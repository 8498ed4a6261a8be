"""Captioned image pairs: rows of a caption and two images, of which one is preferred.

A *row* holds a caption and two images, side 0 and side 1; a *pair* is a row and the side that won.
Images stay in their files or in a memory-mapped table until they are read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from fdpo.preferences.pairs import Pair, Side


class Rows(Protocol):
    """Rows of a caption and two images."""

    @property
    def name(self) -> str:
        """Name of the rows in errors."""
        ...

    def __len__(self) -> int: ...

    def caption(self, row: int) -> str:
        """Returns the caption of a row."""
        ...

    def read(self, row: int, side: int) -> bytes:
        """Returns the bytes of an image file, or raises ``ValueError`` if there is none."""
        ...

    def where(self, row: int, side: int) -> str:
        """Returns the place of an image, for errors."""
        ...


@dataclass(frozen=True)
class TableRows:
    """Rows of a data set with Pick-a-Pic's columns, read one at a time.

    Arguments:
        table: The data set, whose images are bytes or mappings with ``bytes``.
        name: The name of the data set in errors.
    """

    table: Any
    name: str
    _columns: dict[str, Any] = field(default_factory=dict, init=False, compare=False)

    def __len__(self) -> int:
        return len(self.table)

    def caption(self, row: int) -> str:
        return self._value(row, "caption")

    def read(self, row: int, side: int) -> bytes:
        value = self._value(row, f"jpg_{side}")
        data = value.get("bytes") if isinstance(value, Mapping) else value
        if not data:
            raise ValueError(f"{self.where(row, side)}: there is no image")
        return data

    def where(self, row: int, side: int) -> str:
        return f"{self.name}, row {row + 1}, jpg_{side}"

    def column(self, name: str) -> list[Any]:
        """Returns all values of a column of small values."""
        return self.table.select_columns([name]).to_dict()[name]

    def _value(self, row: int, name: str) -> Any:
        # Reading a whole row would read both images.
        if name not in self._columns:
            self._columns[name] = self.table.select_columns([name])
        return self._columns[name][row][name]


@dataclass(frozen=True)
class FileRows:
    """Rows that name image files: side 0 is chosen, side 1 rejected.

    Arguments:
        pairs: The captions and paths.
        folder: The folder that the paths are relative to.
        name: The name of the file of rows in errors.
        numbers: The number of the row that names a path first, from 1.
    """

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
    """Preference pairs of images with the same caption.

    Arguments:
        rows: The rows.
        winners: The row of each pair and the side that won.
    """

    rows: Rows
    winners: Sequence[tuple[int, int]]

    def __len__(self) -> int:
        return len(self.winners)

    def caption(self, index: int) -> str:
        """Returns the caption of a pair."""
        return self.rows.caption(self.winners[index][0])

    def read(self, index: int, side: Side) -> bytes:
        """Returns the bytes of an image file.

        Raises:
            ValueError: If there is none, naming its row and column.
        """
        return self.rows.read(*self._place(index, side))

    def where(self, index: int, side: Side) -> str:
        """Returns the place of an image, for errors."""
        return self.rows.where(*self._place(index, side))

    def select(self, indices: Iterable[int]) -> CaptionedPairs:
        """Returns the pairs with these indices."""
        return replace(self, winners=[self.winners[index] for index in indices])

    def _place(self, index: int, side: Side) -> tuple[int, int]:
        row, winner = self.winners[index]
        return row, winner if side == "chosen" else 1 - winner
