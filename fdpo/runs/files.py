"""Files that appear whole or not at all: written beside their place and renamed."""

from __future__ import annotations

import json
import math
import os
import re
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from fdpo.runs.notes import note

ERRORS = "backslashreplace"
"""The handler of lone surrogates, which UTF-8 lacks: as escapes, which JSON reads back."""

_LEFTOVER = re.compile(r"\..+\.\d+(-[0-9a-f]{8})?(\.\w+)?")


@contextmanager
def replacing(path: str | Path, *, durable: bool = True) -> Iterator[Path]:
    """Yields a path beside ``path`` to write to: renamed at the end, removed on an error.

    Arguments:
        path: The file.
        durable: Whether the contents are on the disk before the name is, so that a power failure
            leaves no empty file. A cache, which notices damaged files, does without.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # No other process or thread, also of another machine, has this name (is_leftover).
    writer = f"{os.getpid()}-{uuid.uuid4().hex[:8]}"
    beside = path.with_name(f".{path.stem}.{writer}{path.suffix}")
    try:
        yield beside
        if durable:
            with beside.open("r+b") as file:
                os.fsync(file.fileno())
        os.replace(beside, path)
    finally:
        with suppress(OSError):  # the error inside is the one to see
            beside.unlink(missing_ok=True)


def is_leftover(path: Path) -> bool:
    """Returns whether a name is one that :func:`replacing` writes to.

    Example:
        >>> is_leftover(Path(".run.123-89abcdef.json")), is_leftover(Path("run.json"))
        (True, False)
    """
    return _LEFTOVER.fullmatch(path.name) is not None


def remove_leftovers(files: Iterable[Path], *, age: float = 0.0) -> None:
    """Removes the files that killed writers left.

    Arguments:
        files: Candidates, all other files are kept.
        age: The seconds since a file's last change, at least: for folders where others may write.
    """
    oldest = time.time() - age
    for file in filter(is_leftover, files):
        with suppress(OSError):  # another process may have been faster
            if file.stat().st_mtime <= oldest:
                file.unlink()


def is_readable(file: Path, read: Callable[[Path], object]) -> bool:
    """Returns whether a file exists and can be read; says so if it is damaged, to be made again."""
    try:
        if file.exists():
            read(file)
            return True
    except (OSError, KeyError, TypeError, ValueError) as error:
        note(f"{file} is damaged and made again ({' '.join(str(error).split())})")
    return False


def write_text(path: str | Path, text: str) -> None:
    """Writes ``text`` in UTF-8."""
    with replacing(path) as beside:
        beside.write_text(text, encoding="utf-8", errors=ERRORS)


def write_json(path: str | Path, value: Any) -> None:
    """Writes ``value`` as indented JSON.

    Scalars of torch and numpy are written as numbers, paths as text, and NaN and the infinities,
    which JSON lacks, as null.
    """
    write_text(path, json.dumps(to_plain(value), indent=2, ensure_ascii=False) + "\n")


def write_jsonl(path: str | Path, rows: Iterable[Any]) -> None:
    """Writes one JSON object a line, from any iterable, with values as in :func:`write_json`."""
    with replacing(path) as beside, beside.open("w", encoding="utf-8", errors=ERRORS) as file:
        for row in rows:
            file.write(json.dumps(to_plain(row), ensure_ascii=False) + "\n")


def read_json(path: str | Path) -> Any:
    """Returns the contents of a JSON file; a ``ValueError`` names the file and the broken line."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}, line {error.lineno}: not JSON: {error.msg}") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not a text file: {error}") from None


def to_plain(value: Any) -> Any:
    """Returns a value as :func:`write_json` and :func:`read_json` would give it back.

    Example:
        >>> to_plain({"loss": float("nan"), "steps": (1, 2)})
        {'loss': None, 'steps': [1, 2]}
    """
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, Mapping):
        return {name: to_plain(member) for name, member in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(member) for member in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, str | int) else str(value)


def file_name(text: str) -> str:
    """Returns ``text`` with every character that does not suit a file's name as an underscore.

    Example:
        >>> file_name("0.7*js + 0.3*reverse_kl")
        '0.7_js_+_0.3_reverse_kl'
    """
    return re.sub(r"[^\w.+-]+", "_", text).lstrip(".")
