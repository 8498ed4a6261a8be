"""Prompts of text-to-image models, from files."""

from __future__ import annotations

from pathlib import Path

from fdpo.preferences.columns import require
from fdpo.runs.rows import FORMATS, read_rows


def read_prompts(source: str, n: int | None = None) -> list[str]:
    """Reads distinct prompts: the lines of a ``.txt`` file, or a column of a file of rows.

    Arguments:
        source: The file; of one with rows (JSONL, Parquet, CSV) the column ``caption``, or
            ``prompt`` where there is none.
        n: The number of prompts, the first; by default all.

    Raises:
        ValueError: If there is no such file or column, a prompt is no text, or they are too few.
    """
    if source.endswith(".txt"):
        found = _lines(Path(source))
    elif source.endswith(FORMATS):
        found = [_prompt(row, f"{source}, row {i}") for i, row in enumerate(read_rows(source), 1)]
    else:
        raise ValueError(f"prompts {source}: must be a file .txt, {', '.join(FORMATS)}")
    prompts = [prompt for prompt in dict.fromkeys(found) if prompt.strip()]
    if len(prompts) < (n or 1):
        raise ValueError(f"{source}: holds {len(prompts)} distinct prompts, asked for are {n or 1}")
    return prompts[:n]


def _lines(file: Path) -> list[str]:
    if not file.is_file():
        raise ValueError(f"{file}: no such file")
    try:
        return [line.strip() for line in file.read_text(encoding="utf-8").split("\n")]
    except UnicodeDecodeError as error:
        raise ValueError(f"{file}: not a text file in UTF-8 ({error})") from error


def _prompt(row: dict[str, object], where: str) -> str:
    name = "caption" if isinstance(row, dict) and "caption" in row else "prompt"
    require(row, (name,), where)
    value = row[name]
    if not isinstance(value, str):
        raise ValueError(f"{where}: {name} is {value!r}, not a text")
    return value
