"""What a user names as ``package.module:attribute``: divergences and scorers of their own."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any


def imported(path: str, kind: str) -> Any:
    """Imports what ``package.module:attribute`` names; ``kind`` is what errors call it.

    Modules of the working folder are found as well as installed ones.

    Raises:
        ValueError: If there is no such module, or nothing of that name in it.
    """
    module_name, _, name = path.partition(":")
    if os.getcwd() not in sys.path:  # a program's own folder is there, not the user's
        sys.path.append(os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except (ImportError, ValueError) as error:
        raise ValueError(f"{kind} {path}: cannot import {module_name!r} ({error})") from error
    if not hasattr(module, name):
        raise ValueError(f"{kind} {path}: {module_name} has no {name!r}")
    return getattr(module, name)
