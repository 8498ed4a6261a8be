"""The processes that a launcher (``torchrun``, ``accelerate launch``) started, or the only one."""

from __future__ import annotations

import ctypes
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import torch
from accelerate import PartialState
from accelerate.utils import reduce
from torch import Tensor

from fdpo.locks import locked


def processes() -> PartialState:
    """Accelerate's state of this process, its number, device and barriers.

    Without an accelerator several processes talk by gloo, which has to be asked for: otherwise each
    believes to be alone. A barrier waits up to a day, for processes may be done hours apart.
    """
    return PartialState(cpu=not torch.accelerator.is_available(), timeout=timedelta(days=1))


def keep_freed_memory() -> None:
    """Has the C library keep what tensors free, not map memory anew for each: faster on a CPU.

    Without glibc nothing happens.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD
    mallopt(-3, 2**30) or mallopt(-3, 2**25)  # M_MMAP_THRESHOLD; older versions take no more


def anywhere(flags: Tensor) -> bool:
    """Whether a flag is set in any process: what all of them have to do together then."""
    found = flags.any().float()
    return bool(reduce(found) if processes().num_processes > 1 else found)


# What torchrun and accelerate tell the processes that they start.
_LAUNCHER = re.compile("(LOCAL_|GROUP_|ROLE_)?(RANK|WORLD_SIZE)|MASTER_|TORCHELASTIC_|ACCELERATE_")


def run_first(command: Sequence[str], made: Path) -> None:
    """Runs a program that makes a file, unless it is there: once, whatever launched this process.

    The first process runs it, as a single process; the others wait, and so does another program
    that wants the same file. Ends this one if it fails.
    """
    with processes().main_process_first():
        if made.exists():
            return
        with locked(made.parent.with_name(f".{made.parent.name}.lock")):
            if made.exists():
                return
            print("making preference data first:", shlex.join(command), flush=True)
            alone = {k: v for k, v in os.environ.items() if not _LAUNCHER.match(k)}
            if code := subprocess.run(command, env=alone, check=False).returncode:
                sys.exit(code)
