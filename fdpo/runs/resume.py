"""Checkpoints to resume a run from, and the option ``--resume_from_checkpoint``.

A resumed run keeps its folder, and its options too (:func:`fdpo.runs.folder.require_free`).
"""

from __future__ import annotations

import re
from pathlib import Path

from fdpo.runs.folder import RECORD

LAST = ("last", "latest")
"""Values of ``--resume_from_checkpoint`` for the newest checkpoint: ours and diffusers'."""
NAME = r"checkpoint-\d+"
STATE = "trainer_state.json"


def last_checkpoint(output_dir: str | Path) -> Path | None:
    """Returns the newest complete ``checkpoint-<step>`` of a run, if it has one.

    A checkpoint is complete if it holds the trainer state, which the trainer writes last: after a
    crash while saving, the run resumes from the checkpoint before.
    """
    checkpoints = {
        int(path.parent.name.split("-")[1]): path.parent
        for path in Path(output_dir).glob(f"checkpoint-*/{STATE}")
        if re.fullmatch(NAME, path.parent.name)
    }
    return checkpoints[max(checkpoints)] if checkpoints else None


def checkpoint(output_dir: str | Path, resume: str | None) -> str | None:
    """Returns the checkpoint that ``--resume_from_checkpoint`` names.

    ``None`` is the start, also of a run that was interrupted before its first checkpoint. Call it
    before :func:`fdpo.runs.folder.prepare`, which makes a run of any folder.

    Arguments:
        output_dir: The run folder.
        resume: ``last`` or ``latest``, the name of one of the run's checkpoints, or a path.

    Raises:
        ValueError: If the folder holds no run, or there is no such complete checkpoint.
    """
    if resume in LAST:
        if not Path(output_dir, RECORD).exists():
            raise ValueError(f"--resume_from_checkpoint {resume}: {output_dir} holds no run")
        last = last_checkpoint(output_dir)
        return str(last) if last else None
    if resume is None:
        return None
    own = Path(output_dir, resume)
    path = own if re.fullmatch(NAME, resume) and own.is_dir() else Path(resume)
    if not path.is_dir():
        names = ", ".join(p.name for p in sorted(Path(output_dir).glob("checkpoint-*")))
        others = f"; {output_dir} has {names}" if names else ""
        raise ValueError(
            f"--resume_from_checkpoint {resume}: no such folder; 'last' is the newest{others}"
        )
    if not (path / STATE).is_file():
        raise ValueError(f"--resume_from_checkpoint {resume}: {path} is incomplete (no {STATE})")
    return str(path)
