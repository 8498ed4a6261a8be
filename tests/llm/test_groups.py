"""Scored groups in training: pairs, completions that are run once, the order of batches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset

from fdpo.llm.config import FDPOConfig
from fdpo.llm.sampler import PairSampler
from fdpo.llm.trainer import FDPOTrainer
from fdpo.preferences.pairs import PairingConfig, make_pairs
from fdpo.preferences.schema import groups_from_rows
from tests.llm.training import LORA


@pytest.fixture(scope="module")
def rows(pair_rows: list[dict[str, str]]) -> list[dict[str, Any]]:
    """Four scored groups of six completions."""
    return [
        {
            "prompt": pair_rows[4 * i]["prompt"],
            "completions": [row["chosen"] + " end" * i for row in pair_rows[:6]],
            "scores": [float((5 * j + i) % 6) for j in range(6)],
        }
        for i in range(4)
    ]


@pytest.mark.parametrize("shared", [False, None], ids=["separate", "default"])
@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_groups_equal_their_pairs(
    tiny_model: Path, rows: list[dict[str, Any]], tmp_path: Path, shared: bool | None, lora: bool
) -> None:
    """Loss and gradient of the six pairs of a group are the means of those of single pairs."""
    trainer = FDPOTrainer(
        str(tiny_model),
        FDPOConfig(str(tmp_path), loss="jsd", beta=0.3, shared_prompts=shared, sft_weight=0.1),
        train_dataset=Dataset.from_list(rows),
        peft_config=LORA if lora else None,
    )
    pairs, _ = make_pairs(groups_from_rows(rows))
    assert len(trainer.train_dataset) == len(pairs) == 24
    generator = torch.Generator().manual_seed(1)
    trained = [p for p in trainer.model.parameters() if p.requires_grad]
    with torch.no_grad():
        for parameter in trained:
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)

    def result(numbers: list[int]) -> tuple[float, torch.Tensor]:
        batch = trainer.data_collator([trainer.train_dataset[i] for i in numbers])
        assert len(batch["num_targets"]) == (6 if len(numbers) == 6 else 2)
        trainer.model.zero_grad()
        loss = trainer.compute_loss(trainer.model, batch)
        loss.backward()
        return loss.item(), torch.cat([p.grad.flatten().clone() for p in trained])

    loss, gradient = result(list(range(6)))
    single = [result([i]) for i in range(6)]
    assert loss == pytest.approx(sum(value for value, _ in single) / 6, rel=1e-5)
    mean = torch.stack([g for _, g in single]).mean(0)
    assert (gradient - mean).norm() < 1e-5 * mean.norm()


def test_the_caller_chooses_the_pairing(
    tiny_model: Path, rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    trainer = FDPOTrainer(
        str(tiny_model),
        FDPOConfig(str(tmp_path), per_device_train_batch_size=2, num_train_epochs=2),
        train_dataset=Dataset.from_list(rows[:3]),
        eval_dataset=Dataset.from_list(rows[3:]),
        pairing=PairingConfig(rule="best_worst"),
    )
    assert len(trainer.train_dataset) == 3 and len(trainer.eval_dataset) == 1
    best = rows[0]["completions"][rows[0]["scores"].index(5.0)]
    assert trainer.train_dataset[0]["chosen"].startswith(best)
    trainer.train()
    assert trainer.evaluate()["eval_rewards/accuracies"] in (0, 1)
    with pytest.raises(ValueError, match="eval_dataset, row 1: 1 completions"):
        FDPOTrainer(
            str(tiny_model), FDPOConfig(str(tmp_path)), train_dataset=Dataset.from_list(rows),
            eval_dataset=Dataset.from_list([{"prompt": "", "completions": ["a"], "scores": [1.0]}]),
        )  # fmt: skip


def test_pairs_of_a_prompt_stay_together_and_lengths_are_alike() -> None:
    generator = torch.Generator().manual_seed(0)
    prompts = [i // 6 for i in range(600)]
    lengths = torch.randint(10, 200, (100,), generator=generator).repeat_interleave(6).tolist()
    sampler = PairSampler(prompts, lengths, update_size=12, seed=3)
    order = list(sampler)
    assert sorted(order) == list(range(600))
    updates = [order[i : i + 12] for i in range(0, 600, 12)]
    assert all(len({prompts[i] for i in update}) == 2 for update in updates)
    spread = [max(lengths[i] for i in u) - min(lengths[i] for i in u) for u in updates]
    assert sum(spread) / len(spread) < 25  # at random about 63
    means = [sum(lengths[i] for i in u) / len(u) for u in updates]
    assert means != sorted(means)
    assert list(sampler) == order == list(PairSampler(prompts, lengths, update_size=12, seed=3))
    sampler.set_epoch(1)
    assert sorted(sampler) == sorted(order)
    later = list(sampler)
    again = {frozenset(later[i : i + 12]) for i in range(0, 600, 12)}
    assert len(again & {frozenset(update) for update in updates}) < 10  # of 50


def test_an_incomplete_update_comes_last() -> None:
    """Each update is sorted by length here, so that a boundary elsewhere would show."""
    sampler = PairSampler(range(10), range(10), update_size=4, seed=0)
    assert len(sampler) == 10
    for epoch in range(10):
        sampler.set_epoch(epoch)
        order = list(sampler)
        assert sorted(order) == list(range(10))
        assert all(update == sorted(update) for update in (order[:4], order[4:8], order[8:]))
