"""Any JSON value in rows that the text trainer reads: tokenised pairs, or one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, IterableDataset
from hypothesis import given
from hypothesis import strategies as st

from fdpo.llm.data import load_preferences
from fdpo.llm.pair_datasets import as_pairs
from fdpo.llm.trainer import FDPOTrainer
from tests.json_values import NEEDED, examples, lines, outcome, rows
from tests.llm import training

KINDS = ("pair", "conversation", "group")
TEMPLATE = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
FILE = "data.jsonl"


@pytest.fixture(scope="module")
def trainer(
    tiny_model: Path, pairs: Dataset, tmp_path_factory: pytest.TempPathFactory
) -> FDPOTrainer:
    """A trainer whose tokenizer takes conversations."""
    config = training.config(tmp_path_factory.mktemp("run"), max_length=64)
    made = FDPOTrainer(str(tiny_model), config, train_dataset=pairs)
    made._tokenizer.chat_template = TEMPLATE
    return made


@pytest.mark.parametrize("kind", KINDS)
@examples(25)
@given(data=st.data())
def test_files_up_to_their_tokens(
    kind: str, data: st.DataObject, trainer: FDPOTrainer, tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = tmp_path_factory.mktemp("rows") / FILE
    file.write_text(lines(data.draw(rows(kind))))
    loaded = outcome(lambda: load_preferences(str(file), test_share=0.0), FILE)
    if loaded is None:
        return
    pairs, counts = loaded
    assert len(pairs["train"]) == counts["made"]
    prepared = prepare(trainer, pairs["train"])
    assert prepared is None or 0 < len(prepared) <= counts["made"]


def prepare(trainer: FDPOTrainer, dataset: Any) -> Any:
    """Tokenises a dataset as the trainer does."""
    return outcome(
        lambda: trainer._prepare_dataset(dataset, trainer.processing_class, trainer.args, "train"),
        "train_dataset",
    )


@pytest.mark.parametrize("kind", KINDS)
@examples(25)
@given(data=st.data())
def test_datasets_and_streams(kind: str, data: st.DataObject) -> None:
    made = data.draw(rows(kind))
    try:
        table = Dataset.from_list(made, on_mixed_types="use_json")
    except Exception:  # Arrow does not hold these values
        return
    if not set(NEEDED[kind]) <= set(table.column_names):
        return
    found = outcome(lambda: as_pairs(table, "train_dataset"), "train_dataset")
    assert found is None or len(found) <= len(made) * 3

    def read_stream() -> list[Any]:
        stream = IterableDataset.from_generator(lambda: iter(table))
        return list(as_pairs(stream, "train_dataset"))

    outcome(read_stream, "train_dataset")


@pytest.mark.parametrize("kind", KINDS)
@examples(8)
@given(data=st.data())
def test_folders(kind: str, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("rows")
    (folder / "train.jsonl").write_text(lines(data.draw(rows(kind))))
    loaded = outcome(lambda: load_preferences(str(folder), test_share=0.0), str(folder))
    assert loaded is None or json.dumps(loaded[1])
