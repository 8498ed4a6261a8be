"""Rows whose prompts fill the longest length: the trainer warns of them, keeps none in silence."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
from datasets import Dataset

from fdpo.llm.trainer import FDPOTrainer
from tests.conftest import sentence
from tests.llm.training import config

SIDES = {"chosen": " good", "rejected": " bad"}
SHORT = [{"prompt": sentence(i, 3), **SIDES} for i in range(4)]
LONG = [{"prompt": sentence(i, 40), **SIDES} for i in range(2)]


def trainer(model: Path, folder: Path, rows: list[dict[str, str]], **options: str) -> FDPOTrainer:
    args = config(folder, max_length=32, **options)
    return FDPOTrainer(str(model), args, train_dataset=Dataset.from_list(rows))


def test_the_rows_that_are_left_out_are_counted(tiny_model: Path, tmp_path: Path) -> None:
    line = "train_dataset: 2 of 6 pairs are left out: their prompts fill max_length 32"
    with pytest.warns(UserWarning, match=line):
        assert len(trainer(tiny_model, tmp_path, SHORT + LONG).train_dataset) == 4
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        kept = trainer(tiny_model, tmp_path, SHORT + LONG, truncation_mode="keep_end")
    assert len(kept.train_dataset) == 6
    assert not any("left out" in str(warning.message) for warning in warned)


def test_nothing_left_is_an_error(tiny_model: Path, tmp_path: Path) -> None:
    message = "train_dataset: no pair is left, every prompt fills --max_length 32"
    with pytest.raises(ValueError, match=message):
        trainer(tiny_model, tmp_path, LONG)
