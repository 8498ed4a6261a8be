"""Run folders: the record of how a run was started, its checkpoints and its metrics.

A folder holds ``run.json`` (options, seed, versions, command lines), checkpoints while the run
trains, and ``metrics.json`` once it has finished.
"""

from __future__ import annotations

import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from fdpo.runs.distributed import is_main_process
from fdpo.runs.files import read_json, to_plain, write_json
from fdpo.runs.secrets import redacted, without_secrets

RECORD = "run.json"  # not config.json, which is the model's where save_pretrained writes
METRICS = "metrics.json"
NONFINITE = "diverged.txt"
REPORT_ERRORS = "report_errors.txt"
"""The file of the errors of a report, which leave the run without a part of its metrics."""
LOG = "log.jsonl"
LONGEST_NAME = 240
"""The longest name of a file or a folder, in bytes: file systems take 255, of which temporary files
beside it need some."""

PACKAGES = "fdpo torch transformers trl peft datasets accelerate diffusers".split()

_CHANGEABLE = re.compile(
    "resume_from_checkpoint|output_dir|run_name|report_to|project|disable_tqdm|do_eval|local_rank"
    "|per_device_eval_batch_size|(log|logging|save|eval|hub|push_to_hub|trackio|ddp)(_.*)?"
    "|dataloader_(num_workers|prefetch_factor|pin_memory|persistent_workers)"
    "|checkpointing_steps|checkpoints_total_limit"
)
LENGTHS = ("max_train_steps", "max_steps", "num_train_epochs")
"""Options that a finished run may be resumed with a larger value of."""


def may_change(option: str) -> bool:
    """Returns whether a resumed run may change an option, because training does not depend on it.

    Example:
        >>> may_change("logging_steps"), may_change("eval_samples"), may_change("beta")
        (True, True, False)
    """
    return _CHANGEABLE.fullmatch(option) is not None


def changes_metrics(option: str) -> bool:
    """Returns whether a run's metrics depend on an option.

    Example:
        >>> changes_metrics("logging_steps"), changes_metrics("eval_samples")
        (False, True)
    """
    return not may_change(option) or option.startswith("eval_")


def prepare(
    output_dir: str | Path,
    options: Mapping[str, Any],
    *,
    resume: str | None = None,
    overwrite: bool = False,
    aliases: Mapping[str, str] | None = None,
) -> Path:
    """Creates the folder of a run and records in ``run.json`` how the run is started.

    With several processes only the first checks and writes.

    Arguments:
        output_dir: The folder.
        options: Every option of the program by name (:func:`fdpo.cli.arguments.resolved`).
        resume: The value of ``--resume_from_checkpoint``: the run in the folder is resumed, with
            the options it was started with except those that :func:`may_change`. A finished run
            may be extended: one of :data:`LENGTHS` may be larger.
        overwrite: Whether to replace a run in the folder, its checkpoints included.
        aliases: Other names of options, which an older record may hold.

    Raises:
        ValueError: If the folder holds another run, or is no folder.
    """
    folder = Path(output_dir)
    if not is_main_process():
        return folder
    previous = None if overwrite else require_free(folder, options, resume, aliases)
    if (folder / RECORD).exists():
        _remove_run(folder, checkpoints=overwrite)
    commands = previous["commands"] if previous else []
    write_json(folder / RECORD, _record(_plain_options(options), commands))
    return folder


def require_free(
    output_dir: str | Path,
    options: Mapping[str, Any],
    resume: str | None = None,
    aliases: Mapping[str, str] | None = None,
) -> dict[str, Any] | None:
    """Raises the errors of :func:`prepare` and writes nothing; returns the record to resume."""
    folder = Path(output_dir)
    require_folder(folder, "output_dir")
    if not (folder / RECORD).exists():
        return None
    previous = read_record(folder)
    if not resume:
        state = "finished" if (folder / METRICS).exists() else "unfinished"
        raise ValueError(
            f"--output_dir {folder} already holds a run ({state}): choose another --output_dir, "
            "resume it with --resume_from_checkpoint last, or delete the folder"
        )
    names = aliases or {}
    recorded = {names.get(name, name): value for name, value in previous["options"].items()}
    _require_same(folder, to_plain(recorded), _plain_options(options))
    return previous


def require_folder(path: str | Path, option: str) -> None:
    """Raises ``ValueError`` if the path of an option, a folder to write to, cannot be one.

    Nothing is created. The nearest folder that exists decides: whether it may be written to, and
    how long names in it may be.
    """
    place = _require_path(path, option)
    if place.exists() and not place.is_dir():
        raise ValueError(f"--{option} {path}: is a file, a folder is needed")
    _require_writable(place, option)


def require_file(path: str | Path, option: str) -> None:
    """Raises ``ValueError`` if the path of an option, a file to write, cannot be one."""
    place = _require_path(path, option)
    if place.is_dir():
        raise ValueError(f"--{option} {path}: is a folder, a file is needed")
    _require_writable(place, option)


def _require_path(path: str | Path, option: str) -> Path:
    text = str(path)
    if not text or "\0" in text:
        raise ValueError(f"--{option} {text!r}: is no path")
    if any(len(os.fsencode(name)) > LONGEST_NAME for name in Path(text).parts):
        raise ValueError(f"--{option} {text:.80}…: a name in it has more than {LONGEST_NAME} bytes")
    try:
        Path(text).exists()
        return Path(text)
    except OSError as error:  # its name is too long, or a folder above may not be read
        raise ValueError(f"--{option} {text:.80}: {error.strerror}") from None


def _require_writable(place: Path, option: str) -> None:
    absolute = place.absolute()
    nearest = next(parent for parent in (absolute, *absolute.parents) if parent.exists())
    if nearest.is_dir():
        if not os.access(nearest, os.W_OK | os.X_OK):
            raise ValueError(f"--{option} {place}: {nearest} may not be written to")
    elif nearest != absolute:
        raise ValueError(f"--{option} {place}: {nearest} is a file, a folder is needed")


def run_options(folder: str | Path) -> dict[str, Any]:
    """Returns the options of the run in a folder, none where there is no record."""
    return read_record(folder)["options"] if (Path(folder) / RECORD).is_file() else {}


def read_record(folder: str | Path) -> dict[str, Any]:
    """Returns the record of the run in a folder; raises ``ValueError`` if it is none."""
    path = Path(folder) / RECORD
    try:
        record = read_json(path)
    except RecursionError:
        record = None
    kinds = {"options": dict, "commands": list}
    if not isinstance(record, dict) or any(
        not isinstance(record.get(name, kind()), kind) for name, kind in kinds.items()
    ):
        raise ValueError(f"{path}: is no record of a run")
    return {**{name: kind() for name, kind in kinds.items()}, **record}


def versions() -> dict[str, str]:
    """Returns the versions of Python and of the packages in :data:`PACKAGES` that are installed."""
    installed = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            installed[package] = version(package)
        except PackageNotFoundError:
            continue
    return installed


def git_commit() -> str | None:
    """Returns the commit of the checkout that holds this file, with ``-dirty`` after changes.

    Changes of results (``results/``, ``results.ipynb``) do not count: no run depends on them.
    """
    try:
        _git("ls-files", "--error-unmatch", Path(__file__).name)
        changed = _git("status", "--porcelain", "-uno", "--", ":/", ":(top,exclude)results*")
        return _git("rev-parse", "HEAD") + ("-dirty" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _record(options: Mapping[str, Any], commands: list[str]) -> dict[str, Any]:
    return {
        "options": options,
        "seed": options.get("seed"),
        "commands": [*commands, redacted(shlex.join(sys.argv))],
        "git_commit": git_commit(),
        "versions": versions(),
    }


def _is_longer(name: str, old: Any, new: Any) -> bool:
    # -1 is no length: max_steps leaves it to num_train_epochs
    return name in LENGTHS and old is not None and new is not None and 0 < old < new


def _require_same(folder: Path, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    finished = (folder / METRICS).exists()
    changed = [
        f"{name} {old.get(name)} -> {new.get(name)}"
        for name in sorted({*old, *new})
        if old.get(name) != new.get(name)
        and not may_change(name)
        and not (finished and _is_longer(name, old.get(name), new.get(name)))
    ]
    if changed:
        raise ValueError(
            f"--output_dir {folder} holds a run with other options ({', '.join(changed)}): resume "
            "it with the options it was started with, or choose another --output_dir"
        )


def _remove_run(folder: Path, checkpoints: bool) -> None:
    """Removes the results of a run, which a resumed run writes again, or all of it."""
    for name in (METRICS, NONFINITE, REPORT_ERRORS):
        (folder / name).unlink(missing_ok=True)
    for path in folder.glob("checkpoint-*") if checkpoints else ():
        shutil.rmtree(path)


def _plain_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the options as JSON holds them, without secrets."""
    return to_plain({k: v for k, v in without_secrets(options).items() if k != "hub_token"})


def _git(*arguments: str) -> str:
    return subprocess.run(
        ["git", *arguments],
        cwd=Path(__file__).parent,
        capture_output=True,
        check=True,
        encoding="utf-8",
        timeout=10,
    ).stdout.strip()
