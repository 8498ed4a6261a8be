"""Prompts: openings that a model samples itself, openings of texts, or lines of a file."""

from __future__ import annotations

import random
from pathlib import Path

from datasets import load_dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from fdpo.llm.generation.sampling import first_words, openings
from fdpo.preferences.columns import require
from fdpo.runs.distributed import partial_state
from fdpo.runs.rows import FORMATS, read_rows, write_rows
from fdpo.tasks.imdb import clean_review


def own_openings(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    n: int,
    *,
    words: int | None = 8,
    seed: int = 0,
    parts: Path,
) -> list[str]:
    """Samples openings from the model (see `fdpo.llm.generation.openings`), once for all processes.

    They are kept in the folder ``parts``, where an interrupted job finds them again.
    """
    state, file = partial_state(), parts / "prompts.jsonl"
    if state.is_main_process and not file.exists():
        found = openings(model, tokenizer, n, words=words, seed=seed)
        write_rows(file, ({"prompt": prompt} for prompt in found))
    state.wait_for_everyone()
    return [row["prompt"] for row in read_rows(file)]


def read_prompts(
    source: str, *, words: int | None = 8, n: int | None = None, seed: int = 0
) -> list[str]:
    """Reads distinct prompts: of a ``.txt`` file each line, of texts their openings.

    Arguments:
        source: A ``.txt`` file; or texts, in the column ``text`` of another file or of the train
            split of a hub id.
        words: The length of an opening; None: the first sentence.
        n: The number of prompts, chosen by the seed; None: all, in their order.
        seed: The seed of that choice.
    """
    if source.endswith(".txt"):
        found = [line for line in _lines(source) if line.strip()]
    else:
        found = [first_words(clean_review(text), words) for text in _texts(source)]
    prompts = list(dict.fromkeys(filter(None, found)))
    if not prompts or len(prompts) < (n or 0):
        raise ValueError(
            f"{source}: holds {len(prompts)} distinct prompts, asked for are {n or 'some'}"
        )
    return prompts if n is None else random.Random(seed).sample(prompts, n)


def _lines(path: str) -> list[str]:
    if not Path(path).is_file():
        raise ValueError(f"{path}: no such file")
    try:
        with open(path, encoding="utf-8", newline="\n") as file:
            return [line.rstrip("\r\n") for line in file]
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not a text file in UTF-8 ({error})") from error


def _texts(source: str) -> list[str]:
    if source.endswith(FORMATS) or Path(source).exists():
        rows = read_rows(source)
    else:
        try:
            rows = load_dataset(source, split="train")
        except (OSError, ValueError) as error:
            reason = str(error).split("\n")[0]
            raise ValueError(
                f"prompts {source}: neither a file (.txt, {', '.join(FORMATS)}) nor a data set "
                f"that can be loaded from the hub ({reason})"
            ) from error
    for number, row in enumerate(rows, 1):
        require(row, ("text",), f"{source}, row {number}")
        if not isinstance(row["text"], str):
            raise ValueError(f"{source}, row {number}: text is {row['text']!r}")
    return [row["text"] for row in rows]
