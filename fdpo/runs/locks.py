"""A file lock that a child process inherits.

It ends with the last process that holds its descriptor, however that process ends: a run whose
sweep was killed still holds its lock. Where no child is involved use ``filelock.FileLock``.
"""

from __future__ import annotations

import os
from pathlib import Path


def claim(path: str | Path, *, wait: bool = False) -> int | None:
    """Returns a descriptor that holds the lock until it is closed, or ``None`` if another has it.

    Arguments:
        path: The file to lock, created where it is missing.
        wait: Whether to wait until the lock is free.
    """
    import fcntl  # missing on Windows, where only a sweep fails

    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor
