"""Losses, gradients and metrics of the trainer: equal to TRL's and to their formulas."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from datasets import Dataset
from trl import DPOConfig, DPOTrainer
from trl.trainer.dpo_trainer import DataCollatorForPreference

import fdpo
from fdpo.llm.trainer import FDPOTrainer
from tests.llm.training import LORA, config, loss_and_gradients

PARITY = [
    ({"loss": "reverse_kl"}, {}),
    ({"loss": "fkl"}, {"f_divergence_type": "forward_kl"}),
    ({"loss": "jsd"}, {"f_divergence_type": "js_divergence"}),
    (
        {"loss": "alpha", "alpha": fdpo.alpha_from_trl(0.7)},
        {"f_divergence_type": "alpha_divergence", "f_alpha_divergence_coef": 0.7},
    ),
    ({"loss": "hinge"}, {"loss_type": ["hinge"]}),
    (
        {"loss": "jsd", "preference": "robust", "label_smoothing": 0.1},
        {
            "f_divergence_type": "js_divergence",
            "loss_type": ["robust"],
            "label_smoothing": 0.1,
        },
    ),
]


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize(
    ("ours", "trl"), PARITY, ids=lambda value: "-".join(map(str, value.values()))
)
def test_loss_and_gradients_equal_those_of_trl(
    tiny_model: Path, pairs: Dataset, tmp_path: Path, ours: dict, trl: dict, lora: bool
) -> None:
    peft_config = LORA if lora else None
    args = config(tmp_path, beta=0.3, tail=None, shared_prompts=False, **ours)
    mine = FDPOTrainer(str(tiny_model), args, train_dataset=pairs, peft_config=peft_config)
    args = DPOConfig(
        output_dir=str(tmp_path), beta=0.3, use_cpu=True, bf16=False, gradient_checkpointing=False,
        per_device_train_batch_size=4, **trl,
    )  # fmt: skip
    theirs = DPOTrainer(str(tiny_model), args=args, train_dataset=pairs, peft_config=peft_config)
    loss, gradients = loss_and_gradients(mine)
    expected_loss, expected_gradients = loss_and_gradients(theirs)
    assert loss == pytest.approx(expected_loss, rel=1e-5, abs=1e-6)
    assert gradients.keys() == expected_gradients.keys()
    gradient = torch.cat([g.flatten() for g in gradients.values()])
    expected = torch.cat([expected_gradients[name].flatten() for name in gradients])
    assert (gradient - expected).norm() <= 1e-5 * expected.norm()


def test_metrics_are_trls_but_for_rewards_and_what_is_added(
    tiny_model: Path, pairs: Dataset, tmp_path: Path
) -> None:
    args = config(tmp_path, loss="fkl", beta=0.3, shared_prompts=False)
    mine = FDPOTrainer(str(tiny_model), args, train_dataset=pairs)
    args = DPOConfig(
        output_dir=str(tmp_path), beta=0.3, use_cpu=True, bf16=False, gradient_checkpointing=False,
        per_device_train_batch_size=4, f_divergence_type="forward_kl",
    )  # fmt: skip
    theirs = DPOTrainer(str(tiny_model), args=args, train_dataset=pairs)
    logs: list[dict[str, float]] = []
    for trainer in (mine, theirs):
        loss_and_gradients(trainer)
        entry: dict[str, float] = {}
        trainer.log(entry)
        logs.append(entry)
    ours, expected = logs
    assert expected.keys() <= ours.keys()
    others = {name for name in expected if name.startswith("rewards/")}
    for name in expected.keys() - others:
        assert ours[name] == pytest.approx(expected[name], rel=1e-4, abs=1e-6), name
    added = {"log_ratios/chosen", "log_ratios/rejected", "slopes/chosen", "slopes/rejected"}
    assert ours.keys() - expected.keys() == added | {"tail_fraction", "padded_fraction"}


def test_sft_weight_adds_nats_per_token_of_the_chosen(
    tiny_model: Path, pairs: Dataset, tmp_path: Path
) -> None:
    losses = []
    for weight in (0.0, 0.5):
        trainer = FDPOTrainer(
            str(tiny_model), config(tmp_path, sft_weight=weight), train_dataset=pairs
        )
        losses.append(loss_and_gradients(trainer)[0])
    rows = DataCollatorForPreference(pad_token_id=0)([trainer.train_dataset[i] for i in range(4)])
    ids, mask = rows["input_ids"][:4], rows["completion_mask"][:4, 1:]
    logits = trainer.model(ids, attention_mask=rows["attention_mask"][:4]).logits[:, :-1]
    nats = torch.nn.functional.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none")
    per_token = ((nats * mask).sum(dim=1) / mask.sum(dim=1)).mean()
    assert losses[1] - losses[0] == pytest.approx(0.5 * per_token.item(), rel=1e-4)
