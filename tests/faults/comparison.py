"""Comparison of the folder that a faulty run left with that of an uninterrupted one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from fdpo.runs.rows import read_rows
from tests.golden.workplace import stable

SHOWN = 4  # differences that are named
IGNORED = ("logs", "report_errors.txt", "cache")
"""Files of attempts, of which a resumed run has more, and caches, which no result depends on."""
UNEQUAL = (
    "resume_from_checkpoint", "computed", "found", "of_other_batches",
    "push_to_hub", "hub_model_id", "local_files_only",
)  # fmt: skip
"""Values that a resumed run may have otherwise: what its caches spared it, and the upload."""


def differences(expected: Path, found: Path) -> list[str]:
    """Returns how two folders differ: files, weights bit for bit, rows and metrics except times."""
    names, others = _names(expected), _names(found)
    lines = [f"missing {name}" for name in sorted(names - others)]
    lines += [f"left over {name}" for name in sorted(others - names)]
    for name in sorted(names & others):
        one, other = expected / name, found / name
        if reason := _difference(one, other, (expected, found)):
            lines.append(f"{name}: {reason}")
    more = len(lines) - SHOWN
    return [*lines[:SHOWN], *([f"{more} more"] if more > 0 else [])]


def _names(folder: Path) -> set[str]:
    """Returns the files under a folder that a run leaves, as paths within it."""
    files = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return {str(path) for path in files if not _may_stay(path)}


def _may_stay(path: Path) -> bool:
    """Returns whether a file may be there or not: logs of attempts, locks, caches."""
    return bool(set(path.parts) & set(IGNORED)) or path.suffix == ".lock"


def _difference(one: Path, other: Path, roots: tuple[Path, Path]) -> str:
    compare = COMPARED.get(one.suffix, _bytes)
    in_checkpoint = any(part.startswith("checkpoint-") for part in one.parts)
    if in_checkpoint and one.suffix not in (".safetensors",) and one.name != "trainer_state.json":
        return ""  # times and random states of libraries; a resumed run has used them
    try:
        return compare(one, other, roots)
    except (OSError, ValueError, KeyError) as error:
        return f"{type(error).__name__}: {error}"


def _bytes(one: Path, other: Path, _: Any = None) -> str:
    return "" if one.read_bytes() == other.read_bytes() else "other bytes"


def _tensors(one: Path, other: Path, _: Any) -> str:
    if not _bytes(one, other):
        return ""
    weights, others = load_file(one), load_file(other)
    if weights.keys() != others.keys():
        return "other tensors"
    gaps = [
        float(np.abs(weights[name].astype(float) - others[name].astype(float)).max(initial=0))
        for name in weights
    ]
    return f"tensors differ by up to {max(gaps):.3g}" if max(gaps) > 0 else ""


def _json(one: Path, other: Path, roots: tuple[Path, Path]) -> str:
    return _values(
        *(
            _plain(json.loads(p.read_text("utf-8")), r)
            for p, r in zip((one, other), roots, strict=True)
        )
    )


def _rows(one: Path, other: Path, roots: tuple[Path, Path]) -> str:
    tables = []
    for path, root in zip((one, other), roots, strict=True):
        lines = path.read_text("utf-8").split("\n")
        tables.append([_plain(json.loads(line), root) for line in lines if line])
    return _values(tables[0], tables[1])


def _table(one: Path, other: Path, _: Any) -> str:
    first, second = ([_plain(row, path) for row in read_rows(path)] for path in (one, other))
    return _values(first, second)


def _plain(value: Any, root: Path) -> Any:
    """Returns a value without times, and without what differs where a run is resumed."""
    value = stable(value, root)
    if isinstance(value, dict):
        return {k: _plain(v, root) for k, v in value.items() if k not in UNEQUAL}
    return [_plain(one, root) for one in value] if isinstance(value, list) else value


def _values(one: Any, other: Any, where: str = "") -> str:
    """Returns the first place where two values differ."""
    if isinstance(one, dict) and isinstance(other, dict):
        for name in sorted({*one, *other}):
            if name not in one or name not in other:
                return f"{where}.{name}: only in {'the first' if name in one else 'this one'}"
            if reason := _values(one[name], other[name], f"{where}.{name}"):
                return reason
        return ""
    if isinstance(one, list) and isinstance(other, list):
        if len(one) != len(other):
            return f"{where}: {len(other)} rows, not {len(one)}"
        for i, (first, second) in enumerate(zip(one, other, strict=True)):
            if reason := _values(first, second, f"{where}[{i}]"):
                return reason
        return ""
    equal = one == other or (one != one and other != other)
    return "" if equal else f"{where}: {str(other)[:60]!r}, not {str(one)[:60]!r}"


def _prose(one: Path, other: Path, _: Any) -> str:
    """Compares nothing but that there is text: cards hold times."""
    return "" if bool(one.stat().st_size) == bool(other.stat().st_size) else "empty"


COMPARED: dict[str, Callable[..., str]] = {
    ".safetensors": _tensors,
    ".json": _json,
    ".jsonl": _rows,
    ".csv": _table,
    ".parquet": _table,
    ".md": _prose,
    ".txt": _prose,
    ".bin": _prose,
    ".pt": _prose,
    ".pkl": _prose,
}
"""The comparison of files by their ending; others are compared byte for byte."""
