"""Means over pairs: uneven batches, accumulation, several processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset

from fdpo.llm.trainer import FDPOTrainer
from tests.llm.training import config, perturb

NAMES = (
    "loss", "rewards/accuracies", "rewards/margins", "log_ratios/chosen", "logps/rejected",
    "entropy", "logits/chosen", "logits/rejected", "mean_token_accuracy",
)  # fmt: skip


def evaluation(trainer: FDPOTrainer, data: Dataset) -> dict[str, float]:
    metrics = trainer.evaluate(data)
    return {name: metrics[f"eval_{name}"] for name in NAMES}


def test_evaluation_does_not_depend_on_the_batch_size(
    tiny_model: Path, pairs: Dataset, tmp_path: Path
) -> None:
    """The ninth pair is alone in its batch of eight."""
    nine = pairs.select(range(9))
    results = []
    for size in (1, 8, 9):
        args = config(tmp_path, loss="jsd", per_device_eval_batch_size=size, sft_weight=0.1)
        trainer = FDPOTrainer(str(tiny_model), args, train_dataset=pairs)
        perturb(trainer.model)
        results.append(evaluation(trainer, nine))
        ours = trainer.train_dataset.select(range(9))
        margins = torch.tensor([trainer.margins[i] for i in range(len(ours))])
        assert results[-1]["rewards/accuracies"] == pytest.approx(
            (margins > 0).float().mean().item()
        )
        assert results[-1]["rewards/margins"] == pytest.approx(margins.mean().item(), rel=1e-5)
    assert 0 < results[0]["rewards/accuracies"] < 1
    for name in NAMES:
        assert results[1][name] == pytest.approx(results[0][name], rel=1e-4), name
        assert results[2][name] == pytest.approx(results[0][name], rel=1e-4), name


def seventeen(pairs: Dataset) -> Dataset:
    return Dataset.from_list([*pairs, {**pairs[3], "prompt": pairs[5]["prompt"]}])


def test_every_pair_of_the_last_update_counts(
    tiny_model: Path, pairs: Dataset, tmp_path: Path
) -> None:
    args = config(
        tmp_path, loss="jsd", per_device_train_batch_size=4, gradient_accumulation_steps=8,
        num_train_epochs=2, log_pairs=True,
    )  # fmt: skip
    trainer = FDPOTrainer(str(tiny_model), args, train_dataset=seventeen(pairs))
    trainer.train()
    rows = [json.loads(line) for line in (tmp_path / "pairs.jsonl").open()]
    assert Counter(row["pair"] for row in rows) == {i: 2 for i in range(17)}
    logs = [row for row in trainer.state.log_history if "rewards/margins" in row and "loss" in row]
    assert len(logs) == 2
    for step, log in enumerate(logs):
        mine = [row for row in rows if row["step"] == step]
        assert log["loss"] == pytest.approx(sum(row["loss"] for row in mine) / 17, rel=1e-5)
        mean = sum(row["chosen_log_ratio"] for row in mine) / 17
        assert log["log_ratios/chosen"] == pytest.approx(mean, rel=1e-5, abs=1e-9)


PROCESSES = """
import json, sys, pathlib
from datasets import load_from_disk
from fdpo.llm.trainer import FDPOTrainer
from tests.llm.training import config, perturb
model, data, out, size = sys.argv[1:]
args = config(pathlib.Path(out), loss="jsd", per_device_train_batch_size=int(size),
    per_device_eval_batch_size=int(size), gradient_accumulation_steps=4, num_train_epochs=2,
    log_pairs=True, use_cpu=True, learning_rate=0.0, bf16=False)
data = load_from_disk(data)
trainer = FDPOTrainer(model, args, train_dataset=data, eval_dataset=data.select(range(9)))
perturb(trainer.model)
trainer.train()
metrics = trainer.evaluate()
margins, prompts = trainer.held_out_margins()
streamed = trainer.evaluate(data.select(range(9)).to_iterable_dataset())
if trainer.is_world_process_zero():
    result = {"metrics": metrics, "streamed": streamed, "margins": margins.tolist()}
    result["log"] = trainer.state.log_history
    pathlib.Path(out, "result.json").write_text(json.dumps(result))
"""


def test_two_processes_count_each_pair_once(
    tiny_model: Path, pairs: Dataset, tmp_path: Path
) -> None:
    """The last batches of two processes hold pairs of the beginning again."""
    seventeen(pairs).save_to_disk(str(tmp_path / "data"))
    (tmp_path / "train.py").write_text(PROCESSES)
    results: list[dict[str, Any]] = []
    for count, size in ((1, "4"), (2, "2")):
        out = tmp_path / str(count)
        launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={count}"]
        command = [sys.executable, *(launch if count > 1 else []), str(tmp_path / "train.py")]
        root = str(Path(__file__).parents[2])
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": root}
        run = subprocess.run(
            [*command, str(tiny_model), str(tmp_path / "data"), str(out), size],
            env=environment, capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        assert run.returncode == 0, run.stderr[-2000:]
        rows = [json.loads(line) for line in (out / "pairs.jsonl").open()]
        assert Counter(row["pair"] for row in rows) == {i: 2 for i in range(17)}
        results.append(json.loads((out / "result.json").read_text()))
    one, two = results
    for name in NAMES:
        for kind in ("metrics", "streamed"):
            value = one[kind][f"eval_{name}"]
            assert two[kind][f"eval_{name}"] == pytest.approx(value, rel=1e-4), name
    assert two["margins"] == pytest.approx(one["margins"], rel=1e-4) and len(one["margins"]) == 9
    logs = [
        [row for row in r["log"] if "rewards/margins" in row and "loss" in row] for r in results
    ]
    assert (
        len(logs[0]) == len(logs[1]) == 4
    )  # without a rate, an epoch's means are those of the data
    for epoch in (slice(0, 2), slice(2, 4)):
        sums = [
            sum(row["rewards/margins"] * n for row, n in zip(log[epoch], (16, 1), strict=True))
            for log in logs
        ]
        assert sums[1] == pytest.approx(sums[0], rel=1e-4)
