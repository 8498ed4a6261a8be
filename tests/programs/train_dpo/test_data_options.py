"""Data of train.py: lines that say how they are read, and mistakes of one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fdpo.llm.models import ModelSource
from fdpo.programs.train_dpo.options import DataArguments
from fdpo.programs.train_dpo.train import load_pairs


def test_configurations_are_chosen(tmp_path: Path) -> None:
    for name in "xy":
        row = {"prompt": name, "chosen": "a", "rejected": "b"}
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(row))
    configs = "".join(f"- config_name: {n}\n  data_files: {n}.jsonl\n" for n in "xy")
    (tmp_path / "README.md").write_text(f"---\nconfigs:\n{configs}---\n")
    args = DataArguments(dataset_name=str(tmp_path), dataset_config="y", test_share=0)
    data, counts = load_pairs(args, ModelSource("none"))
    assert data["train"]["prompt"] == ["y"] and counts == {"candidates": 1, "made": 1}
    args.dataset_config = None
    with pytest.raises(ValueError, match="configurations x, y: choose one with --dataset_config"):
        load_pairs(args, ModelSource("none"))


def test_ties_of_the_hubs_scores_are_dropped(tmp_path: Path) -> None:
    row = {"chosen": " good", "rejected": " bad", "score_chosen": 5.0}
    rows = [{**row, "prompt": f"p{i}", "score_rejected": 1.0 + 4 * (i % 2)} for i in range(8)]
    file = tmp_path / "pairs.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    _, counts = load_pairs(DataArguments(dataset_name=str(file), min_gap=2), ModelSource("none"))
    assert counts == {"candidates": 8, "made": 4, "equal_scores": 4}
