r"""What a reference says, kept on disk and computed once.

A reference's log-probability of a completion depends on the tokens of prompt and completion and on
the reference alone; its error on a picture on the picture, the time, the noise and the reference. A
folder of the cache belongs to a reference (its weights and configuration, the precision and the
attention it computes with), and an entry in it to a text's tokens or a noised picture: neither the
loss, its options, the learning rate nor the epoch has a part, so that all runs of a sweep share it.
"""

from __future__ import annotations

import hashlib
import math
import os
import struct
import uuid
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from fdpo.runs import replacing

OFF = "off"


def default_folder() -> Path:
    """Returns where caches are kept: ``$FDPO_CACHE``, or ``fdpo`` in the user's cache folder."""
    caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("FDPO_CACHE") or Path(caches) / "fdpo")


def key_of(*values: np.ndarray) -> tuple[int, int]:
    """Returns 128 bits that tell arrays apart."""
    digest = hashlib.blake2b(digest_size=16)
    for value in values:
        digest.update(f"{value.dtype.str}{value.shape}".encode())
        digest.update(np.ascontiguousarray(value).data)
    return struct.unpack("<qq", digest.digest())


def fingerprint(parameters: Iterable[tuple[str, Tensor]], *facts: object) -> str:
    """Returns a name for a reference, from its named weights and whatever else it depends on."""
    digest = hashlib.blake2b(repr(facts).encode(), digest_size=16)
    for name, value in sorted(parameters, key=lambda item: item[0]):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(
            value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
        )
    return digest.hexdigest()


class ReferenceCache:
    """Numbers by keys of two 64-bit integers.

    Every process adds files of its own, written beside and renamed, so that any number of them can
    use a folder at once. A file that cannot be read is left out, with one line.

    Arguments:
        folder: The folder of one reference (:meth:`of`).
    """

    @classmethod
    def of(cls, reference: str, folder: str | None = None) -> ReferenceCache | None:
        """Returns the cache of a reference, named by :func:`fingerprint`.

        Arguments:
            reference: The name.
            folder: Where caches are kept, by default :func:`default_folder`; ``off`` gives None.
        """
        if folder == OFF:
            return None
        return cls(Path(folder or default_folder() / "reference") / reference)

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.values: dict[tuple[int, int], float] = {}
        self.unsaved: dict[tuple[int, int], float] = {}
        for file in sorted(folder.glob("*.safetensors")):
            try:
                kept = load_file(file)
                values = dict(zip(_keys(kept["keys"]), kept["values"].tolist(), strict=True))
            except (SafetensorError, KeyError, OSError, ValueError) as error:
                print(f"reference cache: {file} is left out ({error})")
                continue
            self.values.update(values)

    def __len__(self) -> int:
        return len(self.values)

    def get(self, keys: Tensor) -> Tensor:
        """Returns what is kept for keys with shape (*, 2): fp32 with shape (*), NaN for nothing."""
        found = [self.values.get(key, math.nan) for key in _keys(keys)]
        return torch.tensor(found, dtype=torch.float32, device=keys.device).view(keys.shape[:-1])

    def add(self, keys: Tensor, values: Tensor) -> None:
        """Keeps finite values, with shape (*), of keys, with shape (*, 2), that are not there."""
        for key, value in zip(_keys(keys), values.float().flatten().tolist(), strict=True):
            if key not in self.values and math.isfinite(value):
                self.values[key] = self.unsaved[key] = value

    def save(self) -> None:
        """Writes what was added since the last call."""
        if not self.unsaved:
            return
        with replacing(self.folder / f"{uuid.uuid4().hex}.safetensors") as beside:
            save_file(
                {
                    "keys": torch.tensor(list(self.unsaved)),
                    "values": torch.tensor(list(self.unsaved.values()), dtype=torch.float32),
                },
                beside,
            )
        self.unsaved = {}


def _keys(keys: Tensor) -> list[tuple[int, int]]:
    return [(first, second) for first, second in keys.reshape(-1, 2).tolist()]
