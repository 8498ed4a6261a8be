"""Plug-ins: objects of a user's code, given as ``package.module:attribute``."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any


def load_plugin(path: str, kind: str) -> Any:
    """Imports the object that ``package.module:attribute`` refers to.

    It searches the working folder after the installed modules.

    Arguments:
        path: The module and the name of the object.
        kind: The use of the object, for error messages: ``loss``, ``scorer``.

    Raises:
        ValueError: If there is no such module or object.

    Example:
        >>> load_plugin("math:tau", "constant")
        6.283185307179586
    """
    module_name, _, name = path.partition(":")
    if os.getcwd() not in sys.path:  # sys.path has the folder of the program, not the user's
        sys.path.append(os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except (ImportError, ValueError) as error:
        raise ValueError(f"{kind} {path}: cannot import {module_name!r} ({error})") from error
    if not hasattr(module, name):
        raise ValueError(f"{kind} {path}: {module_name} has no {name!r}")
    return getattr(module, name)
