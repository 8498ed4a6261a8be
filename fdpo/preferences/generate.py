"""Generation of preference data: prompts, completions, scores, groups, a data set, any modality.

A modality is a callable that completes a part of the prompts. Its result depends on the part alone,
and each part is saved once it is scored: the processes of a launcher share the parts, and an
interrupted job resumes with those that are missing, to the same result.

.. code-block:: python

    def complete(part: int, prompts: Sequence[str]) -> list[list[Completion]]:
        return [[Completion(prompt.upper()), Completion(prompt * 2)] for prompt in prompts]

    make_dataset(folder, ["a", "b"], complete, scorer, provenance={"model": "none"})
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fdpo.preferences.dataset import write_dataset
from fdpo.preferences.pairs import Group
from fdpo.runs.distributed import is_main_process, partial_state, sharded
from fdpo.runs.files import is_readable
from fdpo.runs.rows import read_rows, write_rows
from fdpo.scorers import Scorer


@dataclass(frozen=True)
class Completion:
    """A completion as a model generated it.

    Arguments:
        text: The text, or the path of an image within the data set's folder.
        ids: The tokens of a text, with the end token if there is one.
        truncated: Whether a text has no end token, because it was cut.
        log_prob: log π(y | x) of a text under the model that generated it.
    """

    text: str
    ids: list[int] = field(default_factory=list)
    truncated: bool = False
    log_prob: float | None = None


PARTS = "parts"
"""The folder within a data set's of the parts of an unfinished one."""

Complete = Callable[[int, Sequence[str]], Sequence[Sequence[Completion]]]
"""A function of a part's number and its prompts that returns the completions of each prompt."""


def make_dataset(
    folder: Path,
    prompts: Sequence[str],
    complete: Complete,
    scorer: Scorer,
    *,
    parts: Sequence[Sequence[int]] | None = None,
    **options: Any,
) -> Counter[str]:
    """Completes prompts, scores the completions and writes a data set of their pairs.

    Arguments:
        folder: The folder; parts that an interrupted job left in it are used.
        prompts: The prompts, the same in every process.
        complete: Completes a part of the prompts.
        scorer: Scores prompts and the completions' texts.
        parts: The indices of the prompts in each part; by default a prompt a part.
        options: The options of :func:`fdpo.preferences.dataset.write_dataset`.

    Returns:
        The counts of :func:`fdpo.preferences.make_pairs`, in the main process only.
    """
    scratch = folder / PARTS
    groups = generate_groups(scratch, prompts, complete, scorer, parts)
    partial_state().wait_for_everyone()  # until all have read the parts
    if not is_main_process():
        return Counter()
    counts = write_dataset(folder, groups, **options)
    remove_parts(folder)
    return counts


def remove_parts(folder: Path) -> None:
    """Removes the parts of a data set, which also a kill after its last file leaves."""
    shutil.rmtree(folder / PARTS, ignore_errors=True)


def generate_groups(
    scratch: Path,
    prompts: Sequence[str],
    complete: Complete,
    scorer: Scorer,
    parts: Sequence[Sequence[int]] | None = None,
) -> list[Group]:
    """Completes prompts and scores the completions, a file a part in the folder ``scratch``.

    Returns:
        The group of each prompt, in order, in every process.

    Raises:
        ValueError: If the folder holds parts of other prompts.
    """
    parts = parts or [[index] for index in range(len(prompts))]
    files = [scratch / f"{number:06}.jsonl" for number in range(len(parts))]

    def is_whole(number: int) -> bool:
        return is_readable(files[number], lambda file: read_part(file, len(parts[number])))

    def compute(number: int) -> None:
        part = [prompts[index] for index in parts[number]]
        groups = score_completions(part, complete(number, part), scorer)
        write_rows(files[number], (group.row() for group in groups))

    sharded(
        range(len(parts)),
        compute,
        title="completing and scoring",
        done=is_whole,
        size=lambda number: len(parts[number]),
        unit="groups",
    )
    groups: dict[int, Group] = {}
    for file, indices in zip(files, parts, strict=True):
        part = read_part(file, len(indices))
        if [group.prompt for group in part] != [prompts[index] for index in indices]:
            raise ValueError(f"{file} belongs to another job: delete {scratch}")
        groups |= zip(indices, part, strict=True)
    return [groups[index] for index in range(len(prompts))]


def read_part(file: Path, size: int) -> list[Group]:
    """Returns the groups of a part; raises `ValueError` or `TypeError` if they are not whole."""
    part = [Group(**row) for row in read_rows(file)]
    if len(part) != size:
        raise ValueError(f"{file}: holds {len(part)} groups, not {size}")
    return part


def score_completions(
    prompts: Sequence[str], completions: Sequence[Sequence[Completion]], scorer: Scorer
) -> list[Group]:
    """Returns the scored group of each prompt; the scorer is called once for all of them."""
    pairs = [
        (prompt, c.text) for prompt, row in zip(prompts, completions, strict=True) for c in row
    ]
    scores = iter(scorer(*map(list, zip(*pairs, strict=True))))
    return [
        Group(
            prompt,
            [completion.text for completion in row],
            [next(scores) for _ in row],
            [completion.truncated for completion in row],
            token_ids=[completion.ids for completion in row] if row and row[0].ids else None,
        )
        for prompt, row in zip(prompts, completions, strict=True)
    ]


def image_scorer(scorer: Scorer, folder: Path) -> Scorer:
    """Returns a scorer of paths within a folder, from one of complete paths."""
    return lambda prompts, paths: scorer(prompts, [str(folder / path) for path in paths])
