"""Seeds of the parts of a job."""

from __future__ import annotations

import random


def derived_seed(seed: int, *indices: int) -> int:
    """A seed for a part of a job: a function of the job's seed and the part's indices alone."""
    return random.Random(repr((seed, *indices))).getrandbits(63)
