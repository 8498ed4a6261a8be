"""Mistakes of the user, and packages that are not installed: one line, status 2."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from safetensors import SafetensorError

from fdpo.runs.notes import printable

PACKAGES = {"PIL": "pillow", "cv2": "opencv-python", "sklearn": "scikit-learn", "yaml": "pyyaml"}
"""module -> package to install, where the names differ by more than a hyphen."""

MISTAKES = (ValueError, OSError, SafetensorError)
"""Errors of a program's input: options, data, damaged weights."""
LONGEST = 2000  # characters of an error, which may quote an input


def fail(program: str, error: object) -> NoReturn:
    """Ends a program with status 2 and ``<program>: error: <message>`` on one line of stderr."""
    if isinstance(error, OSError) and error.filename:
        error = f"{error.filename}: {error.strerror}"
    if isinstance(error, SafetensorError):
        error = f"weights in a file *.safetensors are damaged: {error}"
    if isinstance(error, ImportError):
        error = _with_package(error)
    message = printable(error)
    message = message if len(message) <= LONGEST else f"{message[:LONGEST]} …"
    print(f"{program}: error: {message}", file=sys.stderr)
    raise SystemExit(2)


@contextmanager
def usage_errors(program: str) -> Iterator[None]:
    """Turns a mistake of the user or a missing package inside into :func:`fail`.

    Mistakes are :data:`MISTAKES`. For the part of a program that reads the user's
    input, never for the work itself, whose errors need their traceback.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, MISTAKES) or lacks_package(error):
            fail(program, error)
        raise


def lacks_package(error: BaseException | None) -> bool:
    """Returns whether an error says that an optional package is not installed."""
    # transformers raises a RuntimeError for the packages of --report_to
    advice = isinstance(error, RuntimeError) and "pip install" in str(error)
    return isinstance(error, ImportError) or advice


def _with_package(error: ImportError) -> str:
    """Returns the message of an error, with the package to install."""
    message = str(error)
    module = (error.name or "").partition(".")[0]
    if "FlashAttention" in message:  # transformers names no package
        module = "flash_attn"
    if not module or "pip install" in message:
        return message
    package = PACKAGES.get(module, module.replace("_", "-"))
    return f"{message.rstrip('.')}: pip install {package}"
