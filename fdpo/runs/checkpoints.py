"""Whole checkpoints: written beside their place, listed in a manifest, renamed at the end.

A ``checkpoint-<step>`` appears once all its files are on the disk. Its manifest, the last file of
it, holds their names and sizes, so a file that is cut or lost later is noticed. Checkpoints of
transformers itself and of older versions have no manifest: they count as whole if they hold the
trainer's state, which is written last, and no empty file.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError

from fdpo.runs.files import read_json, write_json
from fdpo.runs.notes import reason

NAME = r"checkpoint-\d+"
STATE = "trainer_state.json"
MANIFEST = "manifest.json"
REQUIRED = {
    "optimizer": ("*optimizer*", "global_step*"),
    "schedule": ("scheduler*", "global_step*"),
    "random numbers": ("rng_state*", "random_states*"),
}
"""The states that a run resumes from -> their files: transformers', Accelerate's, DeepSpeed's."""
CODE = ".metadata"
"""A file of PyTorch's sharded checkpoints, which torch only reads by running the code in it."""


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be written or read."""


def step_of(checkpoint: Path) -> int:
    """Returns the step in the name of a checkpoint."""
    return int(checkpoint.name.rpartition("-")[2])


def checkpoints(folder: str | Path) -> list[Path]:
    """Returns the checkpoints of a run, damaged ones too, by their steps."""
    found = (path for path in Path(folder).glob("checkpoint-*") if re.fullmatch(NAME, path.name))
    return sorted((path for path in found if path.is_dir()), key=step_of)


def damage(checkpoint: Path) -> str:
    """Returns a file of a checkpoint and the damage to it, "" for a whole checkpoint."""
    if not (checkpoint / MANIFEST).is_file():
        return _damage_without_manifest(checkpoint)
    try:
        sizes = dict(read_json(checkpoint / MANIFEST)["files"])
    except (KeyError, TypeError, ValueError):
        return f"{MANIFEST} is damaged"
    for name, size in sizes.items():
        file = checkpoint / str(name)
        if not file.is_file():
            return f"{name} is missing"
        if (found := file.stat().st_size) != size:
            return f"{name} has {found} bytes, {size} were written"
    return ""


def obstacle(checkpoint: Path) -> str:
    """Returns the reason why a run cannot resume from a checkpoint, "" if it can."""
    if problem := damage(checkpoint):
        return problem
    for name, patterns in REQUIRED.items():
        if not any(any(checkpoint.glob(pattern)) for pattern in patterns):
            return f"the state of the {name} is missing (--save_only_model saves none)"
    if file := next(checkpoint.rglob(CODE), None):
        name = file.relative_to(checkpoint).as_posix()
        return f"{name} may hold code: save with FSDP's FULL_STATE_DICT"
    return ""


@contextmanager
def whole_checkpoint(
    folder: str | Path, step: int, *, writes: bool = True, wait: Callable[[], None] = lambda: None
) -> Iterator[Path]:
    """Yields a folder to write a checkpoint to, which becomes ``checkpoint-<step>`` at the end.

    All processes enter it. An existing checkpoint of the step is replaced.

    Arguments:
        folder: The run folder.
        step: The step.
        writes: Whether this process finishes the checkpoint, usually the first one.
        wait: Waits for the other processes.

    Raises:
        CheckpointError: If it cannot be written; nothing is left of it then.
    """
    place = Path(folder) / f"checkpoint-{step}"
    hidden = place.with_name(f".{place.name}")
    try:
        if writes:
            remove_unfinished(folder)
            (hidden / place.name).mkdir(parents=True)
        wait()
        yield hidden / place.name
        wait()
        if writes:
            _publish(hidden / place.name, place)
    except (OSError, RuntimeError, SafetensorError) as error:  # torch.save raises a RuntimeError
        raise CheckpointError(f"{place} cannot be saved: {reason(error)}") from error
    finally:
        if writes:
            _remove(hidden)
    wait()


def rotate(folder: str | Path, limit: int | None, newest: Path, keep: Collection[str] = ()) -> None:
    """Removes the checkpoints of a run beyond a limit, those of the earliest steps first.

    Only whole checkpoints count. Those of the newest one's step and of later steps stay: a run that
    resumed from an earlier checkpoint has more than the limit until it replaces the later ones. It
    never has fewer.

    Arguments:
        folder: The run folder.
        limit: The number of checkpoints to keep; all without one.
        newest: The checkpoint that was written last.
        keep: Names of checkpoints that stay too.
    """
    if limit is None or limit < 1:
        return
    whole = [path for path in checkpoints(folder) if not damage(path)]
    earlier = [p for p in whole if step_of(p) < step_of(newest) and p.name not in keep]
    for path in earlier[: max(0, len(whole) - limit)]:
        hidden = path.with_name(f".{path.name}")
        path.rename(hidden)  # at once: an interrupted removal leaves no half of it
        _remove(hidden)


def remove_unfinished(folder: str | Path) -> None:
    """Removes what killed processes left of checkpoints that they wrote or removed."""
    for path in Path(folder).glob(".checkpoint-*"):
        _remove(path)


@contextmanager
def reading(checkpoint: str | Path) -> Iterator[None]:
    """Lets libraries read a checkpoint, without running code in it.

    Raises:
        CheckpointError: In place of any error inside; it names the checkpoint.
    """
    with without_code():
        try:
            yield
        except CheckpointError:
            raise
        except Exception as error:
            raise CheckpointError(f"{checkpoint} cannot be read: {reason(error)}") from error


@contextmanager
def without_code() -> Iterator[None]:
    """Makes ``torch.load`` refuse code, also where a library asks for it."""
    names = ("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD")
    before = {name: os.environ.pop(name, None) for name in names}
    os.environ[names[0]] = "1"
    try:
        yield
    finally:
        del os.environ[names[0]]
        os.environ.update({name: value for name, value in before.items() if value is not None})


def _damage_without_manifest(checkpoint: Path) -> str:
    if not (checkpoint / STATE).is_file():
        return f"{STATE} is missing"
    for file in sorted(checkpoint.iterdir()):
        if file.is_file() and not file.stat().st_size:
            return f"{file.name} is empty"
    return ""


def _publish(source: Path, place: Path) -> None:
    """Completes a checkpoint with its manifest and puts it in its place."""
    files = sorted(path for path in source.rglob("*") if path.is_file())
    sizes = {path.relative_to(source).as_posix(): path.stat().st_size for path in files}
    write_json(source / MANIFEST, {"files": sizes})
    for path in [*files, source / MANIFEST]:
        with path.open("r+b") as file:
            os.fsync(file.fileno())
    if place.exists():
        place.rename(source.with_name("replaced"))
    source.rename(place)
    _sync_folder(place.parent)


def _sync_folder(folder: Path) -> None:
    with suppress(OSError):  # Windows opens no folders
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _remove(path: Path) -> None:
    if path.is_symlink():
        path.unlink()
    else:
        shutil.rmtree(path, ignore_errors=True)
