"""Golden values as JSON, and the differences between two of them."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent
RELATIVE, ABSOLUTE = 2e-3, 1e-4
"""Tolerances for floats where another processor may compute them."""


def plain(value: Any) -> Any:
    """Returns a value as JSON holds it: non-finite floats as text, tuples as lists."""
    if isinstance(value, dict):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def differences(expected: Any, actual: Any, exact: bool, path: str = "") -> list[str]:
    """Lists where two plain values differ, each with the path of its keys."""
    if isinstance(expected, dict) and isinstance(actual, dict):
        return _of_dictionaries(expected, actual, exact, path)
    if isinstance(expected, list) and isinstance(actual, list):
        if len(expected) != len(actual):
            return [f"{path}: {len(expected)} items expected, {len(actual)} are there"]
        pairs = enumerate(zip(expected, actual, strict=True))
        return [line for i, two in pairs for line in differences(*two, exact, f"{path}[{i}]")]
    if equal(expected, actual, exact):
        return []
    return [f"{path}: {short(expected)} expected, it is {short(actual)}"]


def _of_dictionaries(
    expected: dict[str, Any], actual: dict[str, Any], exact: bool, path: str
) -> list[str]:
    lines = [f"{path}/{key}: is missing" for key in expected if key not in actual]
    lines += [f"{path}/{key}: is new" for key in actual if key not in expected]
    for key in expected:
        if key in actual:
            lines += differences(expected[key], actual[key], exact, f"{path}/{key}")
    return lines


def equal(expected: Any, actual: Any, exact: bool) -> bool:
    """Compares two values that hold no others; integers and texts have no tolerance."""
    if exact or not (isinstance(expected, float) and isinstance(actual, float | int)):
        return bool(expected == actual) and isinstance(expected, bool) == isinstance(actual, bool)
    return math.isclose(expected, actual, rel_tol=RELATIVE, abs_tol=ABSOLUTE)


def short(value: Any) -> str:
    """Returns at most 100 characters of a value."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 100 else f"{text[:97]}..."


def read_golden(name: str) -> Any:
    """Reads the golden value of a case."""
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))


def write_golden(name: str, value: Any) -> Path:
    """Writes the golden value of a case, innermost lists on one line."""
    text = json.dumps(plain(value), indent=1, ensure_ascii=False)
    text = re.sub(r"\[[^\[\]{}]*\]", lambda match: re.sub(r"\n *", " ", match[0]), text)
    path = FOLDER / f"{name}.json"
    path.write_text(text + "\n", encoding="utf-8")
    return path
