"""Ctrl-C that loses nothing: it is remembered, and the loop at work ends where it can go on."""

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
        for number in (signal.SIGINT, signal.SIGTERM):
            self.previous[number] = signal.signal(number, self._remember)

    def any_process_stopped(self) -> bool:
        """Whether any process is to stop, which all of them ask at the same step."""
        found = any_process(torch.tensor(self.stopped, device=partial_state().device))
        if found:  # not an assignment of it: a signal may have come meanwhile
            self.stopped = True
        return found

    def release(self) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)
        self.previous.clear()

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self.stopped = True
        self.release()
