"""Notes to the user: one line each, from the first process of a launcher."""

from __future__ import annotations

import warnings

from fdpo.runs.distributed import is_main_process


def note(message: str) -> None:
    """Warns of a thing worth knowing; programs print it as one line, without its place."""
    if is_main_process():
        warnings.warn(message, stacklevel=2)
