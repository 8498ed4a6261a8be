"""Locks between processes, which end with the processes that hold them, however those end.

A lock is a file under ``flock``; its descriptor can be passed on to a child, and the lock is held
until parent and child are both gone. The file stays: to remove it would give two processes a lock.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def claim(path: str | Path, *, wait: bool = False) -> int | None:
    """Returns a descriptor that holds the lock until it is closed; ``None`` if another has it.

    Arguments:
        path: The lock's file, made where it is missing.
        wait: Whether to wait until the lock is free.
    """
    import fcntl  # which Windows lacks, where only what needs a lock should fail

    Path(path).parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        os.close(descriptor)
        return None
    except BaseException:  # Ctrl-C while it waits
        os.close(descriptor)
        raise
    return descriptor


@contextmanager
def locked(path: str | Path) -> Iterator[None]:
    """Waits for the lock and holds it inside."""
    descriptor = claim(path, wait=True)
    assert descriptor is not None
    try:
        yield
    finally:
        os.close(descriptor)
