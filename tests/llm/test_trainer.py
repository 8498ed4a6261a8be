"""The trainer on a tiny GPT-2: resuming, options, data, two processes, trackers, cards."""

from __future__ import annotations

import copy
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from torch import Tensor

from fdpo.llm.collator import PairCollator
from fdpo.llm.trainer import FDPOTrainer, make_collator
from tests.llm.training import LORA, config


def weights(folder: Path) -> dict[str, Tensor]:
    return load_file(next(folder.glob("*model.safetensors")))


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_resuming_gives_the_weights_of_an_uninterrupted_run(
    tiny_model: Path, pairs: Dataset, tmp_path: Path, lora: bool
) -> None:
    def run(name: str, **kwargs: Any) -> Path:
        args = config(
            tmp_path / name, loss="jsd", num_train_epochs=2, save_strategy="steps", save_steps=3,
            gradient_accumulation_steps=2, per_device_train_batch_size=2,
        )  # fmt: skip
        trainer = FDPOTrainer(
            str(tiny_model), args, train_dataset=pairs, peft_config=LORA if lora else None
        )
        trainer.train(**kwargs)
        trainer.save_model()
        return tmp_path / name

    whole = run("whole")
    resumed = run("resumed", resume_from_checkpoint=str(whole / "checkpoint-3"))
    for name, weight in weights(whole).items():
        torch.testing.assert_close(weights(resumed)[name], weight, rtol=0, atol=0)


@pytest.mark.parametrize(
    "options",
    [
        {"precompute_ref_log_probs": True},
        {"gradient_checkpointing": True},
        {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2},
    ],
    ids=lambda options: next(iter(options)),
)
def test_options_of_memory_and_speed_change_no_result(
    tiny_model: Path, pairs: Dataset, tmp_path: Path, options: dict[str, Any]
) -> None:
    results = []
    for number, extra in enumerate(({}, options)):
        args = config(tmp_path / str(number), loss="jsd", max_steps=3, seed=3, **extra)
        trainer = FDPOTrainer(str(tiny_model), args, train_dataset=pairs)
        trainer.train()
        results.append({k: v.detach().clone() for k, v in trainer.model.state_dict().items()})
    for name, weight in results[0].items():
        torch.testing.assert_close(results[1][name], weight, rtol=1e-4, atol=1e-5)


def test_bf16_evaluation_and_accuracy(tiny_model: Path, pairs: Dataset, tmp_path: Path) -> None:
    args = config(
        tmp_path, loss="jeffreys", bf16=True, num_train_epochs=12, eval_strategy="epoch",
        learning_rate=3e-3,
    )  # fmt: skip
    trainer = FDPOTrainer(str(tiny_model), args, train_dataset=pairs, eval_dataset=pairs)
    trainer.train()
    evaluations = [row for row in trainer.state.log_history if "eval_loss" in row]
    assert len(evaluations) == 12
    assert evaluations[-1]["eval_loss"] < evaluations[0]["eval_loss"] < math.log(2) + 0.05
    assert evaluations[-1]["eval_rewards/accuracies"] > 0.9
    assert trainer.evaluate()["eval_rewards/margins"] > 0


def test_truncated_completions_get_no_end_token(
    tiny_model: Path, pairs: Dataset, tmp_path: Path
) -> None:
    truncated = pairs.add_column("chosen_truncated", [True, False] * 8)
    trainer = FDPOTrainer(str(tiny_model), config(tmp_path), train_dataset=truncated)
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(2)])
    ends = [ids[-1].item() for ids in batch["targets"].split(batch["num_targets"].tolist())]
    end = trainer.processing_class.eos_token_id
    assert batch["pairs"].tolist() == [[0, 1], [2, 3]]
    assert [token == end for token in ends] == [False, True, True, True]


def test_conversations_train(
    tiny_model: Path, pair_rows: list[dict[str, str]], tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    roles = {"prompt": "user", "chosen": "assistant", "rejected": "assistant"}
    rows = [
        {name: [{"role": role, "content": row[name]}] for name, role in roles.items()}
        for row in pair_rows[:4]
    ]
    trainer = FDPOTrainer(
        str(tiny_model),
        config(tmp_path, num_train_epochs=8, learning_rate=3e-3),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
    )
    trainer.train()
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    assert losses[0] == pytest.approx(math.log(2), abs=1e-5)
    assert losses[-1] < 0.6


def test_router_loss_is_added(pairs: Dataset, tiny_model: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer, MixtralConfig, MixtralForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    torch.manual_seed(0)
    model = MixtralForCausalLM(
        MixtralConfig(
            vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=1,
            num_attention_heads=2, num_key_value_heads=2, num_local_experts=2,
            output_router_logits=True,
        )
    )  # fmt: skip
    losses = {}
    for coefficient in (0.0, 0.5):
        trainer = FDPOTrainer(
            copy.deepcopy(model),
            config(tmp_path, router_aux_loss_coef=coefficient),
            ref_model=copy.deepcopy(model),
            train_dataset=pairs,
            processing_class=tokenizer,
        )
        batch = next(iter(trainer.get_train_dataloader()))
        losses[coefficient] = trainer.compute_loss(trainer.model, batch).item()
    aux_loss = trainer.means.mean("train", "aux_loss")
    assert aux_loss is not None and aux_loss > 0
    assert losses[0.5] - losses[0.0] == pytest.approx(0.5 * aux_loss, rel=1e-4)


def test_model_card_names_divergence_beta_and_data(
    tiny_model: Path, pairs: Dataset, tmp_path: Path
) -> None:
    args = config(tmp_path, loss="alpha", alpha=0.5, beta=0.25)
    trainer = FDPOTrainer(str(tiny_model), args, train_dataset=pairs, dataset_name="me/films")
    trainer.create_model_card("a-model")
    card = (tmp_path / "README.md").read_text()
    for words in ("alpha(0.5)", "| β | 0.25 |", "me/films", "2309.16240", "- f-dpo"):
        assert words in card, words


TWO_PROCESSES = """
import sys
from datasets import load_from_disk
from fdpo.llm.config import FDPOConfig
from fdpo.llm.trainer import FDPOTrainer
model, data, out, size = sys.argv[1:]
args = FDPOConfig(output_dir=out, loss="jsd", per_device_train_batch_size=int(size), max_steps=4,
                  learning_rate=1e-3, logging_steps=1, save_strategy="no", disable_tqdm=True,
                  use_cpu=True, max_grad_norm=0.5)
trainer = FDPOTrainer(model, args, train_dataset=load_from_disk(data))
trainer.train()
if trainer.is_world_process_zero():
    import json, pathlib
    rows = [row for row in trainer.state.log_history if "loss" in row]
    pathlib.Path(out, "curve.json").write_text(json.dumps(rows))
"""


def test_two_processes_give_the_curve_of_one(
    tiny_model: Path, pairs: Dataset, tmp_path: Path
) -> None:
    pairs.save_to_disk(str(tmp_path / "data"))
    (tmp_path / "train.py").write_text(TWO_PROCESSES)
    curves = []
    for count, size in ((1, "4"), (2, "2")):
        out = tmp_path / str(count)
        out.mkdir()
        launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={count}"]
        command = [sys.executable, *(launch if count > 1 else []), str(tmp_path / "train.py")]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        subprocess.run(
            [*command, str(tiny_model), str(tmp_path / "data"), str(out), size],
            check=True, env=environment, capture_output=True, timeout=300,
        )  # fmt: skip
        curves.append(json.loads((out / "curve.json").read_text()))
    for one, two in zip(*curves, strict=True):
        for name in ("loss", "grad_norm", "rewards/margins", "log_ratios/chosen", "entropy"):
            assert two[name] == pytest.approx(one[name], rel=1e-3, abs=1e-6), name


def test_trackers_write_runs_offline(
    tiny_model: Path, pairs: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import wandb

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "tensorboard"))
    args = config(tmp_path, loss="jsd", max_steps=2, report_to=["wandb", "tensorboard"])
    trainer = FDPOTrainer(str(tiny_model), args, train_dataset=pairs)
    trainer.train()
    trainer.end()
    wandb.teardown()
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert list(tmp_path.glob("wandb/offline-run-*/*.wandb"))
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    scalars = events.Scalars("train/rewards/margins")
    logged = [row for row in trainer.state.log_history if "rewards/margins" in row]
    assert [event.value for event in scalars] == pytest.approx(
        [row["rewards/margins"] for row in logged], rel=1e-5
    )


def test_collator_follows_the_configuration(tiny_model: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    collator = make_collator(tokenizer, config(tmp_path, max_length=17))
    assert isinstance(collator, PairCollator)
    assert (collator.max_length, collator.pad_token_id) == (17, tokenizer.pad_token_id)
