"""Seeds of the parts of a job."""

from __future__ import annotations

import random


def derived_seed(seed: int, *indices: int) -> int:
    """Returns the seed of a part of a job, a function of the job's seed and the part's indices.

    Example:
        >>> derived_seed(0, 1) == derived_seed(0, 1), derived_seed(0, 1) == derived_seed(0, 2)
        (True, False)
    """
    return random.Random(repr((seed, *indices))).getrandbits(63)
