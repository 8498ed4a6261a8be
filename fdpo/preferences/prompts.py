"""Prompts: lines of a text file, a column of a file of rows, or beginnings of texts."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fdpo.preferences.schema import require_columns
from fdpo.runs.rows import FORMATS, read_rows


def read_prompts(
    source: str,
    n: int | None = None,
    *,
    captions: bool = False,
    words: int | None = 8,
    seed: int | None = None,
) -> list[str]:
    """Reads distinct prompts.

    Arguments:
        source: A ``.txt`` file with a prompt a line; or a file of rows, or a hub id, whose train
            split is read. Rows hold texts in the column ``text``, whose first words are prompts.
        n: The number of prompts; by default all.
        captions: Whether the prompts are captions of images: rows hold them in the column
            ``caption`` or ``prompt``, and white space around a line of a ``.txt`` file is removed.
        words: The number of words of a text (:func:`first_words`).
        seed: The seed that selects ``n`` prompts; without one they are the first.

    Raises:
        ValueError: If there is no such source or column, a value is no text, or there are fewer
            than ``n`` prompts.
    """
    if source.endswith(".txt"):
        values = [line.strip() if captions else line for line in _lines(Path(source))]
    else:
        rows = [(row, f"{source}, row {i}") for i, row in enumerate(_rows(source), 1)]
        if captions:
            values = [_value(row, ("caption", "prompt"), where) for row, where in rows]
        else:
            texts = [_value(row, ("text",), where) for row, where in rows]
            values = [first_words(clean_review(text), words) for text in texts]
    prompts = [prompt for prompt in dict.fromkeys(values) if prompt.strip()]
    if len(prompts) < (n or 1):
        raise ValueError(
            f"{source}: holds {len(prompts)} distinct prompts, but {n or 1} are needed"
        )
    return prompts[:n] if seed is None or n is None else random.Random(seed).sample(prompts, n)


def first_words(text: str, words: int | None) -> str:
    """Returns the first words of a text, or with None its first sentence; "" if nothing follows.

    The result ends where a word ends, without white space.

    Example:
        >>> first_words("A film of the year", 2)
        'A film'
    """
    text = text.strip()
    if words is None:
        first, _, rest = text.partition(".")
        return first if rest else ""
    match = re.match(rf"\S++(?:\s++\S++){{{words - 1}}}(?=\s)", text)
    return match[0] if match else ""


def clean_review(text: str) -> str:
    """Returns a review from the web with line breaks in place of its ``<br />`` tags."""
    return re.sub(r"(?:\s*<br\s*/?>\s*)+", "\n", text).strip()


def _lines(file: Path) -> list[str]:
    if not file.is_file():
        raise ValueError(f"{file}: no such file")
    try:
        with file.open(encoding="utf-8-sig", newline="\n") as lines:
            return [line.rstrip("\r\n") for line in lines]
    except UnicodeDecodeError as error:
        raise ValueError(f"{file}: not a text file in UTF-8 ({error})") from error


def _rows(source: str) -> Iterable[Any]:
    if source.endswith(FORMATS) or Path(source).exists():
        return read_rows(source)
    from datasets import load_dataset

    try:
        return load_dataset(source, split="train")
    except (OSError, ValueError) as error:
        reason = str(error).split("\n")[0]
        raise ValueError(
            f"prompts {source}: neither a file (.txt, {', '.join(FORMATS)}) nor a data set "
            f"that can be loaded from the hub ({reason})"
        ) from error


def _value(row: Any, columns: Sequence[str], where: str) -> str:
    """Returns the text in the first of the columns that a row has."""
    present = [name for name in columns if isinstance(row, Mapping) and name in row]
    name = present[0] if present else columns[-1]
    require_columns(row, (name,), where)
    if not isinstance(row[name], str):
        raise ValueError(f"{where}: {name} is {row[name]!r}, not a text")
    return row[name]
