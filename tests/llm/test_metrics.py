"""Metrics of pairs: means, rows of pairs.jsonl, losses that are not finite."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from datasets import Dataset
from torch import Tensor

import fdpo
from fdpo.llm.metrics import CountedPairs, Means, PairMetrics
from fdpo.llm.trainer import FDPOTrainer
from tests.llm.training import config


def test_rewards_are_beta_times_the_link(tiny_model: Path, pairs: Dataset, tmp_path: Path) -> None:
    args = config(tmp_path, loss="alpha", alpha=0.5, beta=0.3, log_pairs=True, max_steps=4)
    FDPOTrainer(str(tiny_model), args, train_dataset=pairs).train()
    rows = [json.loads(line) for line in (tmp_path / "pairs.jsonl").open()]
    assert len(rows) == 16
    assert sorted(row["pair"] for row in rows) == list(range(16))
    divergence = fdpo.get_divergence("alpha", alpha=0.5)
    for row in rows[4:]:
        for side in ("chosen", "rejected"):
            log_ratio = torch.tensor(row[f"{side}_log_ratio"], dtype=torch.float64)
            assert row[f"{side}_link"] == pytest.approx(divergence.link(log_ratio).item(), rel=1e-4)
            assert row[f"{side}_slope"] == pytest.approx(
                divergence.slope(log_ratio).item(), rel=1e-4
            )
        assert row["in_tail"] is False
    assert any(abs(row["chosen_log_ratio"]) > 1e-3 for row in rows)


def test_a_loss_that_is_not_finite_names_step_and_pair(
    tiny_model: Path, pairs: Dataset, tmp_path: Path
) -> None:
    broken = pairs.add_column("ref_chosen_logps", [-9.0] * 11 + [math.nan] + [-9.0] * 4)
    broken = broken.add_column("ref_rejected_logps", [-9.0] * 16)
    trainer = FDPOTrainer(str(tiny_model), config(tmp_path, max_steps=4), train_dataset=broken)
    trainer.precompute_ref_logps = True  # as if they had been precomputed
    with pytest.raises(FloatingPointError, match=r"^step \d: the loss of pair 11 \(' .* is nan"):
        trainer.train()


def test_means_are_those_since_the_last_log() -> None:
    means = Means()
    means.add("train", {"margin": (1.0, 1), "entropy": (4.0, 2)})
    means.add("eval", {"margin": (5.0, 1)})
    means.add("train", {"margin": (5.0, 2), "entropy": (2.0, 1)})
    for num_tokens in (10, 30):
        means.set("train", "num_tokens", num_tokens)
    assert means.mean("train", "margin") == 2.0 and means.mean("train", "none") is None
    assert means.pop("train") == {"margin": 2.0, "entropy": 2.0, "num_tokens": 30}
    assert means.pop("train") == {} and means.pop("eval") == {"eval_margin": 5.0}


def gather(indices: Tensor | None, columns: dict[str, Tensor]) -> PairMetrics:
    return PairMetrics.gather(CountedPairs(Accelerator(cpu=True)), "train", indices, columns)


def test_metrics_of_pairs_are_found_by_name() -> None:
    columns = {"loss": torch.tensor([0.5, 0.7]), "rewards/accuracies": torch.tensor([True, False])}
    metrics = gather(torch.tensor([4, 9]), columns)
    assert metrics["loss"].tolist() == pytest.approx([0.5, 0.7])
    assert metrics.sums() == {"loss": (pytest.approx(1.2), 2), "rewards/accuracies": (1.0, 2)}
    assert [index for index, _ in metrics.rows()] == [4, 9]
    assert metrics.first_nonfinite() is None


def test_metrics_of_tokens_weigh_each_token_the_same() -> None:
    columns = {
        "entropy": torch.tensor([6.0, 8.0]),
        "mean_token_accuracy": torch.tensor([1, 4]),
        "num_chosen": torch.tensor([2, 5]),
        "num_rejected": torch.tensor([1, 6]),
    }
    assert gather(None, columns).sums() == {"entropy": (14, 14), "mean_token_accuracy": (5, 7)}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_the_first_loss_that_is_not_finite(value: float) -> None:
    columns = {"loss": torch.tensor([0.5, value, value]), "rewards/margins": torch.arange(3)}
    metrics = gather(None, columns)
    index, row = metrics.first_nonfinite() or (None, {})
    assert (index, row["rewards/margins"]) == (-1, 1.0) and metrics.indices == [-1] * 3
