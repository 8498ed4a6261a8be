"""Checkpoints to resume a run from, and the option ``--resume_from_checkpoint``.

A resumed run keeps its folder, and its options too (:func:`fdpo.runs.folder.require_free`).
"""

from __future__ import annotations

import re
from pathlib import Path

from fdpo.runs.folder import RECORD


def last_checkpoint(output_dir: str | Path) -> Path | None:
    """Returns the newest complete ``checkpoint-<step>`` of a run, if it has one.

    A checkpoint is complete if it holds the trainer state, which the trainer writes last: after a
    crash while saving, the run resumes from the checkpoint before.
    """
    checkpoints = {
        int(path.parent.name.split("-")[1]): path.parent
        for path in Path(output_dir).glob("checkpoint-*/trainer_state.json")
        if re.fullmatch(r"checkpoint-\d+", path.parent.name)
    }
    return checkpoints[max(checkpoints)] if checkpoints else None


def checkpoint(output_dir: str | Path, resume: str | None) -> str | None:
    """Returns the checkpoint that ``--resume_from_checkpoint`` names: a path, or the ``last`` one.

    ``None`` is the start, also of a run that was interrupted before its first checkpoint. Call it
    before :func:`fdpo.runs.folder.prepare`, which makes a run of any folder.
    """
    if resume == "last":
        if not Path(output_dir, RECORD).exists():
            raise ValueError(f"--resume_from_checkpoint last: {output_dir} holds no run")
        last = last_checkpoint(output_dir)
        return str(last) if last else None
    if resume is not None and not Path(resume).is_dir():
        raise ValueError(f"--resume_from_checkpoint {resume}: no such folder; 'last' is the newest")
    return resume
