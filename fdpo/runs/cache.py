r"""A cache on disk of numbers that depend on a frozen model alone.

A reference's log-probability of a completion depends on the tokens of prompt and completion and on
the reference alone; its error on an image on the image, the time, the noise and the reference. A
folder of the cache belongs to a reference (its weights and configuration, the precision and the
attention it computes with), and an entry in it to a text's tokens or a noised image: neither the
loss, its options, the learning rate nor the epoch takes part, so that all runs of a sweep share it.
"""

from __future__ import annotations

import hashlib
import math
import os
import struct
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fdpo.runs.distributed import any_process
from fdpo.runs.files import replacing

OFF = "off"


def default_folder() -> Path:
    """Returns the folder of caches: ``$FDPO_CACHE``, or ``fdpo`` in the user's cache folder."""
    caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("FDPO_CACHE") or Path(caches) / "fdpo")


def reference_folder(folder: str | None) -> Path:
    """Returns the folder of references' numbers, by default in :func:`default_folder`."""
    return Path(folder or default_folder() / "reference")


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


def cached_file(path: Path, write: Callable[[Path], object]) -> Path:
    """Returns the path of a file; ``write`` creates it where it is missing, whole or not at all."""
    if not path.exists():
        with replacing(path) as beside:
            write(beside)
    return path


class ReferenceCache:
    """Numbers by keys of two 64-bit integers, on disk.

    Every process adds its files, written beside and renamed, so that any number of processes can
    use a folder at once. A file that cannot be read is left out, with one line.

    Arguments:
        folder: The folder of one reference (:meth:`open`); ``None`` keeps nothing.
    """

    @classmethod
    def open(cls, name: Callable[[], str], folder: str | None = None) -> ReferenceCache:
        """Returns the cache of a reference.

        Arguments:
            name: Returns the reference's :func:`fingerprint`; not called where nothing is cached.
            folder: The folder of all caches, by default :func:`default_folder`; ``off`` keeps
                nothing.
        """
        return cls(None if folder == OFF else reference_folder(folder) / name())

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self.values: dict[tuple[int, int], float] = {}
        self.unsaved: dict[tuple[int, int], float] = {}
        for file in sorted(folder.glob("*.safetensors")) if folder else ():
            self.values.update(_read(file))

    def __len__(self) -> int:
        return len(self.values)

    @property
    def enabled(self) -> bool:
        """True unless the cache is off."""
        return self.folder is not None

    def get(self, keys: Tensor) -> Tensor:
        """Returns the values of keys with shape (*, 2): fp32 with shape (*), NaN where missing."""
        values = [self.values.get(key, math.nan) for key in _keys(keys)]
        return torch.tensor(values, dtype=torch.float32, device=keys.device).view(keys.shape[:-1])

    def add(self, keys: Tensor, values: Tensor) -> None:
        """Adds finite values, with shape (*), of keys, with shape (*, 2), that are missing."""
        for key, value in zip(_keys(keys), values.float().flatten().tolist(), strict=True):
            if key not in self.values and math.isfinite(value):
                self.values[key] = self.unsaved[key] = value

    def get_or_compute(self, keys: Tensor, compute: Callable[[], Tensor]) -> Tensor:
        """Returns the values of keys; where one is missing, computes and adds all of them.

        Processes of a launcher compute together: a collective operation in ``compute`` would wait
        for the others otherwise.

        Arguments:
            keys: The keys, with shape (*, 2).
            compute: Returns the values, with shape (*).
        """
        if not self.enabled:
            return compute()
        values = self.get(keys)
        if any_process(values.isnan()):
            values = compute()
            self.add(keys, values)
        return values

    def save(self) -> None:
        """Writes the values that were added since the last call."""
        if not self.unsaved or self.folder is None:
            return
        from safetensors.torch import save_file

        tensors = {
            "keys": torch.tensor(list(self.unsaved)),
            "values": torch.tensor(list(self.unsaved.values()), dtype=torch.float32),
        }
        with replacing(self.folder / f"{uuid.uuid4().hex}.safetensors") as beside:
            save_file(tensors, beside)
        self.unsaved = {}


def _read(file: Path) -> dict[tuple[int, int], float]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(file)
        return dict(zip(_keys(tensors["keys"]), tensors["values"].tolist(), strict=True))
    except (SafetensorError, KeyError, OSError, ValueError) as error:
        print(f"reference cache: {file} is left out ({error})")
        return {}


def _keys(keys: Tensor) -> list[tuple[int, int]]:
    return [(first, second) for first, second in keys.reshape(-1, 2).tolist()]
