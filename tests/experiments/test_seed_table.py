"""Tables with means over the seeds of a sweep."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from pandas import DataFrame

from experiments import seed_table


def write_sweep(folder: Path, rows: list[dict[str, Any]], logs: list[dict[str, float]]) -> None:
    for row in rows:
        (folder / "runs" / str(row["run"])).mkdir(parents=True)
        lines = [json.dumps({"step": step, **log}) for step, log in enumerate(logs, 1)]
        (folder / "runs" / str(row["run"]) / "log.jsonl").write_text("\n".join(lines))
    DataFrame(rows).to_csv(folder / "table.csv", index=False)


def printed(capsys: pytest.CaptureFixture[str], *options: object) -> list[list[str]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["seed_table.py", *map(str, options)])
        seed_table.main()
    lines = capsys.readouterr().out.splitlines()
    return [[text.strip() for text in line.strip("|").split("|")] for line in lines]


def test_losses_on_imdb_with_the_goals_that_they_miss(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = {f"base_{name}": 1.0 for name in ("imdb-sentiment", "distinct_2", "vader", "entropy")}
    base["base_imdb-sentiment_sd"] = 2.0
    rows: list[dict[str, Any]] = [
        {"run": f"{loss}{seed}", "loss": loss, "seed": seed, **base, "imdb-sentiment": reward,
         "reverse_kl": kl, "js": 0.5, "distinct_2": 0.9, "vader": 1.5, "entropy": 1.0}
        for loss, reward, kl in (("jsd", 3.0, 4.0), ("fkl", 1.5, 30.0)) for seed in (0, 1)
    ]  # fmt: skip
    rows[0]["imdb-sentiment"] = 4.0
    write_sweep(tmp_path, rows, [{"tail_fraction": 0.0}, {"tail_fraction": 0.5}, {"eval_loss": 1}])
    header, _, fkl, jsd = printed(capsys, "--table", "imdb", "--sweep", tmp_path)
    assert header[:3] == ["loss", "reward (base sd)", "KL (nats)"]
    assert jsd[:3] == ["jsd", "1.250 ± 0.250", "4.000 ± 0.000"]
    assert (jsd[-2], jsd[-1]) == ("0.250 ± 0.000", "all met")
    assert fkl[-1] == "misses reward, KL"


def test_methods_on_mnist_with_the_share_on_the_way(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    metrics = {"out_of_distribution": 0.1, "variety": 0.8, "path_kl": 5.0, "base_share": 0.1}
    metrics |= {"base_out_of_distribution": 0.2, "base_variety": 0.9}
    rows: list[dict[str, Any]] = [
        {"run": f"{method}{seed}", "loss": "sigmoid", "method": method, "seed": seed,
         "share": 0.4 + seed / 5, **metrics}
        for method in ("sft", "dpo") for seed in (0, 1)
    ]  # fmt: skip
    write_sweep(tmp_path, rows, [{"loss": 1}, {"validation/share": 0.25}, {"loss": 1}])
    header, _, sft, dpo = printed(capsys, "--table", "mnist", "--sweep", tmp_path)
    assert header[:2] == ["method", "share"] and sft[0] == "sft" and dpo[0] == "dpo"
    assert sft[1] == "0.500 ± 0.100" and sft[-1] == "2: 0.25"


def test_a_missing_sweep_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        printed(capsys, "--table", "imdb", "--sweep", tmp_path)
    assert "table.csv: No such file" in capsys.readouterr().err
