"""Checkpoints to resume a run from, and the option ``--resume_from_checkpoint``.

A resumed run keeps its folder, and its options too (:func:`fdpo.runs.folder.require_free`).
"""

from __future__ import annotations

import re
from pathlib import Path

from fdpo.runs.checkpoints import NAME, checkpoints, obstacle
from fdpo.runs.folder import RECORD
from fdpo.runs.notes import note

LAST = ("last", "latest")
"""Values of ``--resume_from_checkpoint`` for the newest checkpoint: ours and diffusers'."""


def last_checkpoint(output_dir: str | Path) -> Path | None:
    """Returns the newest ``checkpoint-<step>`` of a run that it can resume from, if it has one."""
    return _newest(output_dir)[0]


def checkpoint(output_dir: str | Path, resume: str | None) -> str | None:
    """Returns the checkpoint that ``--resume_from_checkpoint`` names.

    ``None`` is the start, also of a run that was interrupted before its first checkpoint. The last
    checkpoint is the newest that is whole; a line names newer ones that are damaged. Call it before
    :func:`fdpo.runs.folder.prepare`, which makes a run of any folder.

    Arguments:
        output_dir: The run folder.
        resume: ``last`` or ``latest``, the name of one of the run's checkpoints, or a path.

    Raises:
        ValueError: If the folder holds no run, or there is no such whole checkpoint.
    """
    if resume is None:
        return None
    if resume in LAST:
        if not Path(output_dir, RECORD).exists():
            raise ValueError(f"--resume_from_checkpoint {resume}: {output_dir} holds no run")
        return newest_checkpoint(output_dir)
    own = Path(output_dir, resume)
    path = own if re.fullmatch(NAME, resume) and own.is_dir() else Path(resume)
    if not path.is_dir():
        names = ", ".join(p.name for p in checkpoints(output_dir))
        others = f"; {output_dir} has {names}" if names else ""
        raise ValueError(
            f"--resume_from_checkpoint {resume}: no such folder; 'last' is the newest{others}"
        )
    require_whole(path)
    return str(path)


def newest_checkpoint(output_dir: str | Path) -> str | None:
    """Returns the newest checkpoint to resume from, with a note of newer ones that are damaged.

    Raises:
        ValueError: If all checkpoints are damaged, with the command to start again.
    """
    newest, damaged = _newest(output_dir)
    if newest is None and damaged:
        raise ValueError(
            f"{output_dir} has no whole checkpoint ({'; '.join(damaged)}): to start from the "
            f"beginning, delete them (rm -r {output_dir}/checkpoint-*) and resume again"
        )
    if damaged:
        note(f"{'; '.join(damaged)}: the run resumes from {newest}")
    return str(newest) if newest else None


def require_whole(path: Path) -> None:
    """Raises ``ValueError`` if a run cannot resume from a checkpoint; it names one that it can."""
    if problem := obstacle(path):
        newest = last_checkpoint(path.parent)
        advice = f"; {newest} is whole" if newest else ""
        raise ValueError(f"--resume_from_checkpoint {path}: {problem}{advice}")


def _newest(output_dir: str | Path) -> tuple[Path | None, list[str]]:
    """Returns the newest checkpoint to resume from, and the newer ones with their damage."""
    damaged: list[str] = []
    for path in reversed(checkpoints(output_dir)):
        problem = obstacle(path)
        if not problem:
            return path, damaged
        damaged.append(f"{path.name}: {problem}")
    return None, damaged
