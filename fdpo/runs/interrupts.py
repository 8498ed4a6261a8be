"""Interrupts by Ctrl-C or SIGTERM that end a loop where it can be resumed."""

from __future__ import annotations

import signal
from types import FrameType
from typing import Any

import torch

from fdpo.runs.distributed import any_process, partial_state


class Interrupts:
    """Remembers SIGINT and SIGTERM while it watches; a second one acts as usual."""

    def __init__(self) -> None:
        self.stopped = False
        self.previous: dict[int, Any] = {}

    def watch(self) -> None:
        """Starts to handle both signals."""
        for number in (signal.SIGINT, signal.SIGTERM):
            self.previous[number] = signal.signal(number, self._remember)

    def any_process_stopped(self) -> bool:
        """Returns whether any process is to stop; all of them have to call it at the same step."""
        stopped = any_process(torch.tensor(self.stopped, device=partial_state().device))
        if stopped:  # no plain assignment: a signal may have arrived since
            self.stopped = True
        return stopped

    def release(self) -> None:
        """Restores the previous handlers."""
        for number, handler in self.previous.items():
            signal.signal(number, handler)
        self.previous.clear()

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self.stopped = True
        self.release()
