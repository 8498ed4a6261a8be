"""Notes to the user: one line each, from the first process of a launcher."""

from __future__ import annotations

import unicodedata
import warnings

from fdpo.runs.distributed import is_main_process


def printable(message: object) -> str:
    r"""Returns a message as one line that shows control characters and half characters as escapes.

    Data name columns and files as they please, also so that a terminal would obey them.

    Example:
        >>> printable("no column \x1b[2J\n  text, café")
        'no column \\x1b[2J text, café'
    """
    line = " ".join(str(message).split())
    unsafe = {c for c in line if unicodedata.category(c) in ("Cc", "Cf", "Cs")}
    return line.translate({ord(c): c.encode("unicode_escape").decode() for c in unsafe})


def note(message: str) -> None:
    """Warns of a thing worth knowing; programs print it as one line, without its place."""
    if is_main_process():
        warnings.warn(message, stacklevel=2)


def reason(error: Exception, longest: int = 200) -> str:
    """Returns an error as one line: what the system says, or its type and its message's beginning.

    Example:
        >>> reason(OSError(28, "No space left on device")), reason(KeyError("values"))
        ('No space left on device', "KeyError: 'values'")
    """
    if type(error).__name__ == "UnpicklingError":  # torch advises to run the code
        return "one of its files is damaged or holds code"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = printable(error)
    text = text if len(text) <= longest else f"{text[:longest]} …"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
