"""Check that the images of captioned pairs can be decoded, before training."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from fdpo.diffusion.images import decode_image
from fdpo.diffusion.text_to_image.load_pairs import require_pairs
from fdpo.diffusion.text_to_image.pairs import CaptionedPairs
from fdpo.preferences.pairs import SIDES
from fdpo.runs.distributed import sharded

PAIRS_PER_PART = 32  # pairs that a process checks between two updates of the progress bar

Fault = tuple[int, str]
"""The index of a pair and the error of its first image that cannot be decoded."""


def check_images(
    pairs: CaptionedPairs, *, skip_unreadable: bool = False, threads: int = 8
) -> tuple[CaptionedPairs, int]:
    """Decodes every image once; the processes of a launcher share them.

    Arguments:
        pairs: The pairs.
        skip_unreadable: True to drop pairs with an image that cannot be decoded.
        threads: Images decoded at the same time in each process.

    Returns:
        The pairs whose images can be decoded and the number of those dropped.

    Raises:
        ValueError: If an image cannot be decoded, naming the first one and the number of others;
            with ``skip_unreadable`` only if no pair is left.
    """
    from accelerate.utils import gather_object

    with ThreadPoolExecutor(threads) as pool:
        parts = [
            range(start, min(start + PAIRS_PER_PART, len(pairs)))
            for start in range(0, len(pairs), PAIRS_PER_PART)
        ]
        shares = sharded(
            parts, partial(_faults, pairs, pool),
            title="checking images", size=len, unit="pairs",
        )  # fmt: skip
    faults = sorted(gather_object([fault for share in shares for fault in share]))
    if faults and not skip_unreadable:
        others = f" (and {len(faults) - 1:,} other pairs)" if len(faults) > 1 else ""
        raise ValueError(f"{faults[0][1]}{others}; --skip_unreadable drops such pairs")
    wrong = {index for index, _ in faults}
    readable = pairs.select(index for index in range(len(pairs)) if index not in wrong)
    require_pairs(readable, Counter(unreadable=len(wrong)))
    return readable, len(wrong)


def _faults(pairs: CaptionedPairs, pool: ThreadPoolExecutor, part: Iterable[int]) -> list[Fault]:
    return [fault for fault in pool.map(partial(_fault, pairs), part) if fault is not None]


def _fault(pairs: CaptionedPairs, index: int) -> Fault | None:
    for side in SIDES:
        try:
            decode_image(pairs.read(index, side), pairs.where(index, side))
        except ValueError as error:
            return index, str(error)
    return None
