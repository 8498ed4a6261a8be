"""Processes of a launcher (``torchrun``, ``accelerate launch``): ranks, barriers, shared work."""

from __future__ import annotations

import ctypes
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, TypeVar

import torch
from filelock import FileLock
from torch import Tensor

if TYPE_CHECKING:
    from accelerate import PartialState

Part = TypeVar("Part")
Result = TypeVar("Result")


def rank() -> int:
    """Returns the number of this process, 0 for the only or the first one.

    The launcher's environment says so before any process group exists.
    """
    return max(0, int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", 0))))


def num_processes() -> int:
    """Returns the number of processes that the launcher started, 1 without a launcher."""
    return int(os.environ.get("WORLD_SIZE", 1))


def is_main_process() -> bool:
    """Returns whether this is the only process or the first one."""
    return rank() == 0


def partial_state() -> PartialState:
    """Returns Accelerate's state of this process: its device and the barriers.

    Without an accelerator several processes talk by gloo, which has to be requested: otherwise each
    process takes itself for the only one. A barrier waits up to a day, because processes may finish
    hours apart.
    """
    from accelerate import PartialState  # importing it takes a second

    return PartialState(cpu=not torch.accelerator.is_available(), timeout=timedelta(days=1))


def any_process(flags: Tensor) -> bool:
    """Returns whether a flag is set in any process, which all of them have to act on together."""
    from accelerate.utils import reduce

    flag = flags.any().float()
    return bool(reduce(flag) if partial_state().num_processes > 1 else flag)


def sharded(
    parts: Sequence[Part],
    compute: Callable[[Part], Result],
    *,
    title: str,
    done: Callable[[Part], bool] = lambda part: False,
    size: Callable[[Part], int] = lambda part: 1,
    unit: str = "it",
) -> list[Result]:
    """Computes parts of a job; the processes of a launcher share them.

    Each process takes every n-th part, skips those that are done and returns once all processes
    have finished. A part that writes its file whole or not at all (:mod:`fdpo.runs.files`) is never
    computed twice, so an interrupted job resumes.

    Arguments:
        parts: The parts, the same list in every process.
        compute: Computes a part.
        title: The title of the progress bar, which the first process shows.
        done: Whether a part needs no work, usually because its file exists.
        size: The items of a part, for the progress bar.
        unit: The name of an item.

    Returns:
        The results of the parts that this process computed.

    Example:
        >>> sharded([1, 2, 3], lambda part: part**2, title="squares")
        [1, 4, 9]
    """
    from tqdm.auto import tqdm

    state = partial_state()
    mine = parts[state.process_index :: state.num_processes]
    missing = [part for part in mine if not done(part)]
    total, left = sum(map(size, mine)), sum(map(size, missing))
    results = []
    hidden = not is_main_process()
    with tqdm(
        desc=title, total=total, initial=total - left, unit=f" {unit}", disable=hidden
    ) as bar:
        for part in missing:
            results.append(compute(part))
            bar.update(size(part))
    state.wait_for_everyone()
    return results


def keep_freed_memory() -> None:
    """Makes the C library reuse the memory of freed tensors, which is faster on a CPU.

    Without glibc nothing happens.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD
    mallopt(-3, 2**30) or mallopt(-3, 2**25)  # M_MMAP_THRESHOLD; older versions take no more


# The environment variables that torchrun and accelerate set for the processes they start.
_LAUNCHER = re.compile("(LOCAL_|GROUP_|ROLE_)?(RANK|WORLD_SIZE)|MASTER_|TORCHELASTIC_|ACCELERATE_")


_PARENT = "FDPO_PARENT"


def end_with_parent() -> None:
    """Ends this program when the one that started it by :func:`run_first` ends, even by SIGKILL.

    The parent holds the other end of a pipe to the standard input.
    """

    def watch() -> None:
        os.read(0, 1)  # nothing is written: it returns at the end of the pipe
        os.kill(os.getpid(), signal.SIGTERM)

    if os.environ.pop(_PARENT, None):
        Thread(target=watch, daemon=True).start()


def run_first(command: Sequence[str], target: Path) -> None:
    """Runs a program that writes a file, unless the file exists, once for all processes.

    The first process runs it, as a single process; the others wait, and so does another program
    that needs the same file. If it fails, this process exits with its status; if this process is
    ended, so is the program.

    Arguments:
        command: The program, which calls :func:`end_with_parent`, and its arguments.
        target: The file that it writes last.
    """
    with partial_state().main_process_first():
        if target.exists():
            return
        with FileLock(target.parent.with_name(f".{target.parent.name}.lock")):
            if target.exists():
                return
            print("making preference data first:", shlex.join(command), flush=True)
            alone = {k: v for k, v in os.environ.items() if not _LAUNCHER.match(k)}
            # Our end of the pipe closes however this process ends (end_with_parent).
            child = subprocess.Popen(command, env=alone | {_PARENT: "stdin"}, stdin=subprocess.PIPE)
            with child:
                try:
                    code = child.wait()
                except BaseException:
                    child.kill()  # what it has made, it keeps
                    raise
            if code:
                sys.exit(code)
