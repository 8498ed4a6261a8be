"""The processes that a launcher (``torchrun``, ``accelerate launch``) started, or the only one."""

from __future__ import annotations

from datetime import timedelta

import torch
from accelerate import PartialState


def processes() -> PartialState:
    """Accelerate's state of this process, its number, device and barriers.

    Without an accelerator several processes talk by gloo, which has to be asked for: otherwise each
    believes to be alone. A barrier waits up to a day, for processes may be done hours apart.
    """
    return PartialState(cpu=not torch.accelerator.is_available(), timeout=timedelta(days=1))
