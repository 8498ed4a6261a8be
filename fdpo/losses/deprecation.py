"""Keyword-only parameters that old code may still pass by position."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import wraps
from inspect import Parameter, signature
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


def accept_positional(function: Callable[P, R]) -> Callable[P, R]:
    """Lets callers pass keyword-only parameters by position, with a `FutureWarning`.

    The signature stays that of the function.
    """
    parameters = signature(function).parameters.values()
    keywords = [p.name for p in parameters if p.kind is Parameter.KEYWORD_ONLY]
    first = len(parameters) - len(keywords)

    @wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        names = keywords[: len(args) - first] if len(args) > first else []
        if names and len(args) <= first + len(keywords):
            passed = ", ".join(f"{name}=..." for name in names)
            warnings.warn(
                f"{function.__name__}: pass {passed} by keyword; passing them by position will be "
                "an error in the next release",
                FutureWarning,
                stacklevel=2,
            )
            by_name = dict(zip(names, args[first:], strict=True))
            return function(*args[:first], **by_name, **kwargs)  # type: ignore[arg-type]
        return function(*args, **kwargs)

    return wrapper
