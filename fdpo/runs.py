"""Run folders: what a run was started with, what came of it, and how it goes on when interrupted.

A folder holds ``run.json`` (options, seed, versions, command lines), checkpoints while it trains,
and ``metrics.json`` once it has finished. A file appears whole or not at all: it is written beside
its place and renamed.
"""

import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

RECORD = "run.json"  # not config.json, which is the model's where save_pretrained writes
METRICS = "metrics.json"
DIVERGED = "diverged.txt"

PACKAGES = "fdpo torch transformers trl peft datasets accelerate diffusers".split()

# Options that a resumed run may change: they alter what is shown and kept, not what is computed.
HARMLESS = re.compile(
    "resume_from_checkpoint|output_dir|run_name|report_to|project|disable_tqdm|do_eval|local_rank"
    "|per_device_eval_batch_size|(log|logging|save|eval|hub|push_to_hub|trackio|ddp)(_.*)?"
    "|dataloader_(num_workers|prefetch_factor|pin_memory|persistent_workers)"
)


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A path beside ``path`` to write to: renamed to ``path`` at the end, removed on an error."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        yield beside
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Writes ``text`` in UTF-8, whole or not at all."""
    with replacing(path) as beside:
        beside.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any) -> None:
    """Writes ``value`` as indented JSON; scalars of torch and numpy as numbers, paths as text."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, default=_plain) + "\n")


def write_jsonl(path: str | Path, rows: Iterable[Any]) -> None:
    """Writes one JSON object a line, from any iterable, whole or not at all."""
    with replacing(path) as beside, beside.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False, default=_plain) + "\n")


def read_json(path: str | Path) -> Any:
    """What a JSON file holds; a ``ValueError`` names the file and line that is not JSON."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}, line {error.lineno}: not JSON: {error.msg}") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not a text file: {error}") from None


def prepare(
    output_dir: str | Path,
    config: Mapping[str, Any],
    *,
    resume: str | None = None,
    overwrite: bool = False,
) -> Path:
    """Makes the folder of a run and records in ``run.json`` what it is started with.

    With several processes only the first checks and writes.

    Args:
        config: every option of the program by name (:func:`fdpo.arguments.resolved`).
        resume: the program's ``--resume_from_checkpoint`` as it was given: the run in the folder
            goes on, with the options it was started with except those :data:`HARMLESS` matches.
        overwrite: the run in the folder, its checkpoints included, is replaced.

    Raises:
        ValueError: the folder holds another run, or is no folder.
    """
    folder = Path(output_dir)
    if not is_main_process():
        return folder
    previous = None if overwrite else require_free(folder, config, resume=resume)
    if overwrite and (folder / RECORD).exists():
        _remove_run(folder)
    commands = previous["commands"] if previous else []
    write_json(folder / RECORD, _record(_plain_options(config), commands))
    return folder


def require_free(
    output_dir: str | Path, config: Mapping[str, Any], *, resume: str | None = None
) -> dict[str, Any] | None:
    """Raises the errors of :func:`prepare`, and writes nothing; returns the run to go on with."""
    folder = Path(output_dir)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--output_dir {folder}: is a file, a folder is needed")
    if not (folder / RECORD).exists():
        return None
    previous = read_json(folder / RECORD)
    if not resume:
        state = "finished" if (folder / METRICS).exists() else "unfinished"
        raise ValueError(
            f"--output_dir {folder} already holds a run ({state}): choose another --output_dir, "
            "go on with it by --resume_from_checkpoint last, or delete the folder"
        )
    _require_same(folder, previous["options"], _plain_options(config))
    return previous


@contextmanager
def noting_divergence(folder: Path) -> Iterator[None]:
    """Writes why a training diverged (`FloatingPointError`) to ``diverged.txt`` of its folder."""
    try:
        yield
    except FloatingPointError as error:
        write_text(folder / DIVERGED, f"{error}\n")
        raise


def last_checkpoint(output_dir: str | Path) -> Path | None:
    """The newest complete ``checkpoint-<step>`` of a run, if it has one.

    Complete means that the trainer state, which the trainer writes last, is there: a crash while
    saving leaves the checkpoint before it as the one to resume from.
    """
    found = {
        int(path.parent.name.split("-")[1]): path.parent
        for path in Path(output_dir).glob("checkpoint-*/trainer_state.json")
        if re.fullmatch(r"checkpoint-\d+", path.parent.name)
    }
    return found[max(found)] if found else None


def checkpoint(output_dir: str | Path, resume: str | None) -> str | None:
    """The checkpoint that ``--resume_from_checkpoint`` means: a path, or the ``last`` of the run.

    ``None`` is the beginning, also that of a run which was interrupted before its first checkpoint.
    To be asked before :func:`prepare`, which makes a run of any folder.
    """
    if resume == "last":
        if not Path(output_dir, RECORD).exists():
            raise ValueError(f"--resume_from_checkpoint last: {output_dir} holds no run")
        last = last_checkpoint(output_dir)
        return str(last) if last else None
    if resume is not None and not Path(resume).is_dir():
        raise ValueError(f"--resume_from_checkpoint {resume}: no such folder; 'last' is the newest")
    return resume


def file_name(text: str) -> str:
    """``text`` with what does not belong in a file's name replaced by underscores."""
    return re.sub(r"[^\w.+-]+", "_", text).lstrip(".")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages in :data:`PACKAGES` that are installed."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def git_commit() -> str | None:
    """The commit of the checkout that this file belongs to, with ``-dirty`` after changes.

    Those of results (``results/``, ``results.ipynb``) do not count: they do not say how a run was
    made.
    """
    try:
        _git("ls-files", "--error-unmatch", Path(__file__).name)
        changed = _git("status", "--porcelain", "-uno", "--", ":/", ":(top,exclude)results*")
        return _git("rev-parse", "HEAD") + ("-dirty" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return None


def is_main_process() -> bool:
    """Whether this is the only process or the first of those that a launcher started."""
    return int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", 0))) <= 0


def _record(options: Mapping[str, Any], commands: list[str]) -> dict[str, Any]:
    command = re.sub(r"(--hub[_-]token[= ])\S+", r"\1***", shlex.join(sys.argv))
    return {
        "options": options,
        "seed": options.get("seed"),
        "commands": [*commands, command],
        "git_commit": git_commit(),
        "versions": versions(),
    }


def _require_same(folder: Path, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    changed = [
        f"{name} {old.get(name)} -> {new.get(name)}"
        for name in sorted({*old, *new})
        if old.get(name) != new.get(name) and not HARMLESS.fullmatch(name)
    ]
    if changed:
        raise ValueError(
            f"--output_dir {folder} holds a run with other options ({', '.join(changed)}): resume "
            "it with the options it was started with, or choose another --output_dir"
        )


def _remove_run(folder: Path) -> None:
    for name in (RECORD, METRICS, DIVERGED):
        (folder / name).unlink(missing_ok=True)
    for path in folder.glob("checkpoint-*"):
        shutil.rmtree(path)


def _plain_options(config: Mapping[str, Any]) -> dict[str, Any]:
    """The options as JSON holds them, without secrets."""
    options = {name: value for name, value in config.items() if name != "hub_token"}
    return json.loads(json.dumps(options, default=_plain))


def _git(*arguments: str) -> str:
    return subprocess.run(
        ["git", *arguments],
        cwd=Path(__file__).parent,
        capture_output=True,
        check=True,
        text=True,
        timeout=10,
    ).stdout.strip()


def _plain(value: Any) -> Any:
    """A scalar of torch or numpy as a number, anything else as its text."""
    return value.item() if hasattr(value, "item") else str(value)
