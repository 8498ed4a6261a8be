"""Terminals that close, pipes whose reader goes away, and Ctrl-C: no program loses work by them."""

from __future__ import annotations

import atexit
import os
import signal
import sys
from types import FrameType, TracebackType
from typing import Any

INTERRUPTED = 130
"""The exit status of a program that Ctrl-C or SIGTERM ended."""


class LastingStream:
    """A text stream that drops what it is given once nobody reads it.

    After ``| head -1`` or in a closed terminal every ``write`` of the stream fails; from the first
    failure on its file is the null device, for child processes too.
    """

    def __init__(self, stream: Any) -> None:
        self.stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        """Writes a text, if there is a reader."""
        try:
            return self.stream.write(text)
        except OSError:
            self._drop()
            return len(text)

    def flush(self) -> None:
        """Writes what is buffered, if there is a reader."""
        try:
            self.stream.flush()
        except OSError:
            self._drop()

    def _drop(self) -> None:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, self.stream.fileno())
        os.close(null)


def outlast_terminal() -> None:
    """Lets the program continue where its output or its errors cannot be written."""
    for name in ("stdout", "stderr"):
        if (stream := getattr(sys, name)) is not None:
            setattr(sys, name, LastingStream(stream))


def exit_on_interrupt() -> None:
    """Ends the program in one line, with status 130, at an interrupt that nothing else handles.

    After the program's last line an interrupt has nothing to end, so it is left aside.
    """
    previous = sys.excepthook
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt)
        atexit.register(signal.signal, signal.SIGINT, signal.SIG_IGN)

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if not issubclass(kind, KeyboardInterrupt):
            return previous(kind, error, trace)
        print("interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)

    sys.excepthook = hook


def _interrupt(number: int, frame: FrameType | None) -> None:
    while frame is not None:
        if frame.f_code.co_name == "<module>" and frame.f_globals.get("__name__") == "__main__":
            raise KeyboardInterrupt  # within the program, not after its end
        frame = frame.f_back
