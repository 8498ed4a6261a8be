"""Files of a data set that lie outside its folder, which are named before anything is made of them.

A data set may name any file that its reader may read: by an absolute path, by ``..`` or by a link.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from fdpo.runs.notes import note


def note_outside(paths: Iterable[str | Path], folder: str | Path) -> None:
    """Names, in one line, the files that lie outside a folder: their number and the first of them.

    Arguments:
        paths: The files, by their paths from the folder.
        folder: The folder.
    """
    home = Path(folder).resolve()
    places = ((Path(folder, path), Path(folder, path).resolve()) for path in paths)
    outside = [(path, real) for path, real in places if not real.is_relative_to(home)]
    if outside:
        path, real = outside[0]
        target = "" if path == real else f" = {real}"
        others = f" and {len(outside) - 1:,} more" if len(outside) > 1 else ""
        note(f"outside {folder}, to be read as its data: {path}{target}{others}")
