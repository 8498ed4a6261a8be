"""Signals and errors at named points of a process, injected from outside.

Python imports a module of this name when it starts; the bench puts its folder on the ``PYTHONPATH``
of the programs. Audit hooks see every file that Python opens, renames or removes, whichever library
does it, so the programs need no hooks of their own. Variables say what happens:

- ``FAULT_ROOT``: the folder whose files count; ``FAULT_TRAIL``: the file that lists their changes.
- ``FAULT_POINT``: ``event pattern n``, the n-th change of its kind (open, save, rename, mkdir,
  remove) of a path that matches; ``event+`` is the moment after it.
- ``FAULT_SIGNAL``: the signal that the process gets there, once in all processes of a trial; or
  ``FAULT_ERRNO``: the error that this change and all later ones end with.
- ``FAULT_FSIZE``: the largest file that can be written, in bytes.
"""

from __future__ import annotations

import fnmatch
import os
import sys
import time
from typing import Any

KINDS = {
    "open": "open",
    "os.rename": "rename",
    "os.mkdir": "mkdir",
    "os.remove": "remove",
    "os.rmdir": "remove",
}
ROOT = os.environ.get("FAULT_ROOT", "")


class Faults:
    """The faults of this process, as the variables describe them."""

    def __init__(self) -> None:
        event, pattern, n = (os.environ.get("FAULT_POINT") or "- - 1").split(" ")
        self.event, self.after = event.rstrip("+"), event.endswith("+")
        self.pattern, self.left = pattern, int(n)
        self.signal = int(os.environ.get("FAULT_SIGNAL", 0))
        self.errno = int(os.environ.get("FAULT_ERRNO", 0))
        self.due = self.busy = False
        trail = os.environ.get("FAULT_TRAIL", os.devnull)
        self.trail = os.open(trail, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def hook(self, event: str, args: tuple[Any, ...]) -> None:
        """Looks at an audited event."""
        if self.due and not self.busy:
            self.fire()
        if event in KINDS and not self.busy:
            if event != "open" or (
                isinstance(args[2], int) and args[2] & (os.O_ACCMODE | os.O_CREAT)
            ):
                path = args[1] if event == "os.rename" else args[0]
                if isinstance(path, (str, bytes, os.PathLike)):
                    self.look(KINDS[event], os.path.abspath(os.fsdecode(path)))

    def look(self, kind: str, path: str) -> None:
        """Notes the change of a file, and acts if it is the one."""
        if not path.startswith(ROOT + os.sep):
            return
        inside = path[len(ROOT) + 1 :]
        self.busy = True
        os.write(self.trail, f"{time.time():.3f} {kind} {inside}\n".encode())
        self.busy = False
        if kind != self.event or not fnmatch.fnmatch(inside, self.pattern):
            return
        self.left -= 1
        if self.left > 0:
            return
        if self.errno:
            raise OSError(self.errno, os.strerror(self.errno), path)
        if self.after:
            self.due = True
        elif self.signal:
            self.fire()

    def fire(self) -> None:
        """Sends the signal to this process, unless another process of the trial got it."""
        self.due, self.busy = False, True
        try:
            os.close(os.open(f"{ROOT}/fired", os.O_CREAT | os.O_EXCL))
            os.kill(os.getpid(), self.signal)
        except FileExistsError:
            pass
        finally:
            self.busy = False


def watch_safetensors(faults: Faults) -> None:
    """Looks at files that safetensors writes in Rust, which no audit hook sees."""
    import safetensors

    write = safetensors.serialize_file

    def serialize_file(tensors: Any, filename: Any, *rest: Any, **options: Any) -> Any:
        faults.look("save", os.path.abspath(os.fsdecode(filename)))
        return write(tensors, filename, *rest, **options)

    vars(safetensors)["serialize_file"] = serialize_file


if ROOT:
    if size := int(os.environ.get("FAULT_FSIZE", 0)):
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    _faults = Faults()
    watch_safetensors(_faults)
    sys.addaudithook(_faults.hook)
