"""File locks that child processes inherit, and locks of folders.

Such a lock ends with the last process that has its descriptor, however that process ends. Where no
child is involved use ``filelock.FileLock``.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PATIENCE = 8.0
"""Seconds to wait for a folder: the workers of a killed program end after it, by 5 seconds."""


@contextmanager
def at_work_in(folder: Path, patience: float | None = None) -> Iterator[None]:
    """Makes this the only program at work in a folder, which is created where it is missing.

    The lock is on the folder itself: no file is left. Windows and some network file systems have
    no such lock, so that nobody is kept out there.

    Arguments:
        folder: The folder.
        patience: The seconds to wait for another program, by default :data:`PATIENCE`.

    Raises:
        ValueError: If another program is at work in the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        import fcntl

        descriptor = os.open(folder, os.O_RDONLY)
    except (ImportError, PermissionError):
        yield
        return
    end = time.monotonic() + (PATIENCE if patience is None else patience)
    try:
        while not _try_lock(descriptor):
            if time.monotonic() > end:
                raise ValueError(f"another program is at work in {folder}: wait until it has ended")
            time.sleep(0.1)
        yield
    finally:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_UN)  # also for children that have not ended
        os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # the file system has no locks
        return True
    return True


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
