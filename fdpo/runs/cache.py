r"""A cache on disk of numbers that depend on a frozen model alone.

A reference's log-probability of a completion depends on the tokens of prompt and completion and on
the reference alone; its error on an image on the image, the time, the noise and the reference. A
folder of the cache belongs to a reference (its weights and configuration, the precision and the
attention it computes with), and an entry in it to a text's tokens or a noised image: neither the
loss, its options, the learning rate nor the epoch takes part, so that all runs of a sweep share it.

A cache never costs a run: where it cannot be read or written, one line says so and the numbers are
computed. Numbers that a batch computes round as its other rows let them. A key therefore has one
number, the first, also in the run that computes it: a run repeats bit for bit with the cache that
it filled.
"""

from __future__ import annotations

import hashlib
import math
import os
import struct
import uuid
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from fdpo.runs.distributed import any_process, is_main_process
from fdpo.runs.files import remove_leftovers, replacing, write_json
from fdpo.runs.notes import note, reason

OFF = "off"
LEFTOVER_AGE = 24 * 60 * 60.0  # seconds after which no writer of a cache is still at work

RECORD = "reference_cache.json"
"""The file of a run folder with the counts of :meth:`ReferenceCache.report`."""

UNWRITTEN = "is not written"
_NOTED: set[tuple[Path, str]] = set()
"""The folders and the problems that a line named already."""

Key = tuple[int, int]
Value = TypeVar("Value")


def reference_folder(folder: str | None) -> Path | None:
    """Returns the folder of references' numbers.

    By default it is ``reference`` in ``$FDPO_CACHE``, or in ``fdpo`` in the user's cache folder;
    ``None`` for a user without a home.
    """
    if folder:
        return Path(folder)
    try:
        caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    except RuntimeError:
        caches = None
    own = os.environ.get("FDPO_CACHE") or (Path(caches) / "fdpo" if caches else None)
    return Path(own) / "reference" if own else None


def array_key(*values: np.ndarray) -> tuple[int, int]:
    """Returns a 128-bit digest of arrays, as two 64-bit integers."""
    digest = hashlib.blake2b(digest_size=16)
    for value in values:
        digest.update(f"{value.dtype.str}{value.shape}".encode())
        digest.update(np.ascontiguousarray(value).data)
    return struct.unpack("<qq", digest.digest())


def fingerprint(parameters: Iterable[tuple[str, Tensor]], *provenance: object) -> str:
    """Returns a name for a model: a digest of its weights and of whatever else it depends on.

    Arguments:
        parameters: The named weights.
        provenance: The configuration, the precision, the versions of libraries …
    """
    digest = hashlib.blake2b(repr(provenance).encode(), digest_size=16)
    for name, value in sorted(parameters, key=lambda item: item[0]):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(
            value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
        )
    return digest.hexdigest()


def model_config(model: Any) -> dict[str, Any]:
    """Returns a model's configuration without its origin, for :func:`fingerprint`."""
    config = getattr(model, "config", {})
    if hasattr(config, "to_diff_dict"):
        config = config.to_diff_dict()
        config.pop("_name_or_path", None)
        return config
    return {name: value for name, value in dict(config).items() if not name.startswith("_")}


def cached(
    path: Path | None,
    compute: Callable[[], Value],
    *,
    read: Callable[[Path], Value],
    write: Callable[[Path, Value], object],
) -> Value:
    """Returns a file's value, which is computed and written where it is missing or damaged.

    Arguments:
        path: The file, which appears whole or not at all; ``None`` keeps nothing.
        compute: Computes the value.
        read: Reads a file; any error says that the file is damaged.
        write: Writes a file, such that ``read`` returns an equal value.
    """
    if path is not None:
        try:
            if path.exists():
                return read(path)
        except Exception as error:
            _note_once(path, "is damaged and made again", error)
    value = compute()
    if path is not None:
        try:
            with replacing(path, durable=False) as beside:
                write(beside, value)
        except Exception as error:
            _note_once(path, UNWRITTEN, error)
    return value


def _note_once(path: Path, problem: str, error: Exception) -> None:
    """Says the first time that what a folder holds has a problem."""
    if (path.parent, problem) not in _NOTED:
        _NOTED.add((path.parent, problem))
        note(f"cache: {path} {problem} ({reason(error)})")


class ReferenceCache:
    """Numbers by keys of two 64-bit integers, on disk.

    Every process adds its files, written beside and renamed, so that any number of processes can
    use a folder at once. Damaged files are removed, with one line for all of them.

    Arguments:
        folder: The folder of one reference (:meth:`open`); ``None`` keeps the numbers in memory.
        enabled: False for a cache that keeps nothing.

    Attributes:
        found: How many numbers were used from the folder.
        foreign: How many of these another batch computed than the one that used them first.
        computed: How many numbers were computed and added.
    """

    @classmethod
    def open(cls, name: Callable[[], str], folder: str | None = None) -> ReferenceCache:
        """Returns the cache of a reference.

        Arguments:
            name: Returns the reference's :func:`fingerprint`; not called where nothing is cached.
            folder: The folder of all caches, by default the user's (:func:`reference_folder`);
                ``off`` keeps nothing.
        """
        if folder == OFF:
            return cls(None, enabled=False)
        parent = reference_folder(folder)
        if parent is None:
            note("reference cache: there is no home folder to keep it in; FDPO_CACHE names another")
        return cls(parent and parent / name())

    def __init__(self, folder: Path | None, *, enabled: bool = True) -> None:
        self.folder, self.enabled = folder, enabled
        self.found = self.foreign = self.computed = 0
        self.values: dict[Key, float] = {}
        self.unsaved: dict[Key, tuple[int, float]] = {}
        self.stored: dict[Key, tuple[tuple[int, float], ...]] = {}
        """By key the numbers that the folder holds, each after the batch that computed it."""
        if folder is not None:
            self._load(folder)

    def __len__(self) -> int:
        return len(self.values) + len(self.stored)

    def get(self, keys: Tensor, batch: int = 0) -> Tensor:
        """Returns the values of keys, with shape :math:`(*, 2)`, in fp32, NaN where missing."""
        values = [self._value(key, batch) for key in _keys(keys)]
        return torch.tensor(values, dtype=torch.float32, device=keys.device).view(keys.shape[:-1])

    def add(self, keys: Tensor, values: Tensor, batch: int = 0) -> None:
        """Adds the finite values, with shape :math:`(*)`, of keys that are missing."""
        for key, value in zip(_keys(keys), values.float().flatten().tolist(), strict=True):
            if key not in self.values and key not in self.stored and math.isfinite(value):
                self.values[key] = value
                self.computed += 1
                if self.folder is not None:
                    self.unsaved[key] = batch, value

    def get_or_compute(
        self, keys: Tensor, compute: Callable[[], Tensor], layout: Sequence[int] = ()
    ) -> Tensor:
        """Returns the values of keys; where one is missing, computes all and adds the missing.

        Processes of a launcher compute together: a collective operation in ``compute`` would wait
        for the others otherwise.

        Arguments:
            keys: The keys, with shape :math:`(*, 2)`.
            compute: Returns the values, with shape :math:`(*)`.
            layout: The shape in which the rows are computed, if the keys leave that open.
        """
        if not self.enabled:
            return compute()
        batch = _batch(keys, layout)
        values = self.get(keys, batch)
        if any_process(values.isnan()):
            computed = compute().float()
            self.add(keys, computed, batch)
            values = torch.where(values.isnan(), computed, values)
        return values

    def save(self) -> None:
        """Writes the values that were added since the last call; after an error nothing more."""
        if not self.unsaved or self.folder is None:
            return
        from safetensors.torch import save_file

        batches, values = zip(*self.unsaved.values(), strict=True)
        tensors = {
            "keys": torch.tensor(list(self.unsaved)),
            "values": torch.tensor(values, dtype=torch.float32),
            "batches": torch.tensor(batches),
        }
        try:
            file = self.folder / f"{uuid.uuid4().hex}.safetensors"
            with replacing(file, durable=False) as beside:
                save_file(tensors, beside)
        except Exception as error:
            _note_once(self.folder, UNWRITTEN, error)
            self.folder = None
        self.unsaved = {}

    def report(self, run_folder: str | Path, *, resumed: bool) -> None:
        """Writes how many numbers were found to a run's ``reference_cache.json``.

        One line says so where they may differ from those that the run itself would compute.

        Arguments:
            run_folder: The folder of the run.
            resumed: Whether the run was resumed: it then finds its own numbers, in other batches.
        """
        if not self.enabled or not is_main_process():
            return
        counts = {"found": self.found, "of_other_batches": self.foreign, "computed": self.computed}
        write_json(Path(run_folder) / RECORD, counts)
        if self.foreign and not resumed:
            note(
                f"reference cache: {self.foreign:,} of {self.found + self.computed:,} numbers are "
                "those of other batches (another seed, batch size or number of threads), which "
                "round differently; --reference_cache off computes all"
            )

    def _value(self, key: Key, batch: int) -> float:
        """Returns the number of a key, at its first use that of the same batch or the oldest."""
        if key not in self.values:
            stored = self.stored.pop(key, None)
            if stored is None:
                return math.nan
            same = dict(stored)
            self.values[key] = same.get(batch, stored[0][1])
            self.found += 1
            self.foreign += batch not in same
        return self.values[key]

    def _load(self, folder: Path) -> None:
        """Reads the files of a folder, the oldest first."""
        damaged: list[tuple[Path, Exception]] = []
        try:
            files = sorted(
                folder.glob("[!.]*.safetensors"), key=lambda file: file.stat().st_mtime_ns
            )
            remove_leftovers(folder.glob(".*"), age=LEFTOVER_AGE)
        except OSError as error:
            return note(f"reference cache: {folder} is left out ({reason(error)})")
        for file in files:
            try:
                for key, batch, value in _read(file):
                    self.stored[key] = (*self.stored.get(key, ()), (batch, value))
            except Exception as error:
                damaged.append((file, error))
        if damaged:
            _leave_out(damaged)


def _read(file: Path) -> Iterable[tuple[Key, int, float]]:
    """Returns the keys, batches and numbers of a file."""
    from safetensors.torch import load_file

    tensors = load_file(file)
    keys, values = tensors["keys"], tensors["values"]
    batches = tensors.get("batches", torch.zeros(len(values), dtype=torch.int64))  # 0: unknown
    kinds = [keys.dtype, batches.dtype, values.dtype]
    if kinds != [torch.int64, torch.int64, torch.float32] or keys.shape != (len(values), 2):
        raise ValueError(f"its arrays are {kinds} with {tuple(keys.shape)}")
    if not values.isfinite().all():
        raise ValueError("it holds values that are not finite")
    return zip(_keys(keys), batches.tolist(), values.tolist(), strict=True)


def _leave_out(damaged: Sequence[tuple[Path, Exception]]) -> None:
    """Says in one line which files are left out, and removes those that are damaged."""
    (file, error), *rest = damaged
    more = f", and {len(rest):,} more files" if rest else ""
    note(f"reference cache: {file} is left out ({reason(error)}){more}")
    for file, error in damaged:
        if not isinstance(error, OSError):  # whose file may be whole
            with suppress(OSError):
                file.unlink()


def _batch(keys: Tensor, layout: Sequence[int]) -> int:
    """Returns a name for what the rounding of a batch depends on."""
    machine = f"{torch.__version__} {keys.device.type} {torch.get_num_threads()}"
    where = np.frombuffer(machine.encode(), dtype=np.uint8)
    return array_key(keys.cpu().numpy(), np.array(layout, dtype=np.int64), where)[0] or 1


def _keys(keys: Tensor) -> list[Key]:
    return [(first, second) for first, second in keys.reshape(-1, 2).tolist()]
