"""Fixtures of training: a dataset of pairs, no state of an earlier run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from datasets import Dataset


@pytest.fixture(autouse=True)
def _no_earlier_batch() -> None:
    """Accelerate remembers the last batch of the last run, by which it would cut the next one."""
    from accelerate.state import GradientState

    GradientState._reset_state()


@pytest.fixture(scope="session")
def pairs(pair_rows: list[dict[str, str]]) -> Dataset:
    """The sixteen pairs as a dataset."""
    from datasets import Dataset

    return Dataset.from_list(pair_rows)
