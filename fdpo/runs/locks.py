"""File locks that child processes inherit.

Such a lock ends with the last process that has its descriptor, however that process ends. Where no
child is involved use ``filelock.FileLock``.
"""

from __future__ import annotations

import os
from pathlib import Path


def hold(path: str | Path) -> int:
    """Waits for the lock and returns a descriptor that holds it, to be passed to a child."""
    import fcntl  # missing on Windows, where only a sweep fails

    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    return descriptor


def is_held(path: str | Path) -> bool:
    """Returns whether a process holds the lock of an existing file."""
    import fcntl

    with open(path, "r+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
