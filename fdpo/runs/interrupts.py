"""Interrupts by Ctrl-C, SIGTERM or a closed terminal that end a loop where it can be resumed."""

from __future__ import annotations

import signal
from types import FrameType
from typing import Any

import torch

from fdpo.runs.distributed import any_process, partial_state

HANGUP: signal.Signals | None = getattr(signal, "SIGHUP", None)
"""The signal of a closed terminal, which Windows lacks."""


class Interrupts:
    """Remembers SIGINT, SIGTERM and SIGHUP while it watches.

    A second SIGINT or SIGTERM acts as usual. A closed terminal may send several SIGHUP, so further
    ones are left aside; under ``nohup`` all are.
    """

    def __init__(self) -> None:
        self.stopped = False
        self.previous: dict[int, Any] = {}

    def watch(self) -> None:
        """Starts to handle the signals."""
        for number in (signal.SIGINT, signal.SIGTERM):
            self.previous[number] = signal.signal(number, self._remember)
        if HANGUP is not None and signal.getsignal(HANGUP) != signal.SIG_IGN:
            self.previous[HANGUP] = signal.signal(HANGUP, self._remember)

    def any_process_stopped(self) -> bool:
        """Returns whether any process is to stop; all of them have to call it at the same step."""
        stopped = any_process(torch.tensor(self.stopped, device=partial_state().device))
        if stopped:  # no plain assignment: a signal may have arrived since
            self.stopped = True
        return stopped

    def release(self) -> None:
        """Restores the previous handlers."""
        self._restore(list(self.previous))

    def _restore(self, numbers: list[int]) -> None:
        for number in numbers:
            signal.signal(number, self.previous.pop(number))

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self.stopped = True
        self._restore([number for number in self.previous if number != HANGUP])
