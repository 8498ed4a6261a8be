"""The trainer on a tiny GPT-2: parity with TRL, what it logs, resuming, two processes, failures."""

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
from accelerate.state import GradientState
from datasets import Dataset
from peft import LoraConfig
from safetensors.torch import load_file
from torch import Tensor
from trl import DPOConfig, DPOTrainer
from trl.trainer.dpo_trainer import DataCollatorForPreference

import fdpo
from fdpo.llm.collator import PairCollator
from fdpo.llm.config import FDPOConfig
from fdpo.llm.trainer import FDPOTrainer, pair_collator

LORA = LoraConfig(r=4, target_modules=["c_attn"], task_type="CAUSAL_LM", fan_in_fan_out=True)


@pytest.fixture(autouse=True)
def _no_batch_before() -> None:
    """Accelerate remembers the last batch of the last run, by which it would cut the next one."""
    GradientState._reset_state()


@pytest.fixture(scope="module")
def folder(tiny_model: Path) -> Path:
    return tiny_model


@pytest.fixture(scope="module")
def pairs(pair_rows: list[dict[str, str]]) -> Dataset:
    return Dataset.from_list(pair_rows)


def config(output_dir: Path, **kwargs: Any) -> FDPOConfig:
    defaults: dict[str, Any] = {
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-3,
        "logging_steps": 1,
        "save_strategy": "no",
        "disable_tqdm": True,
    }
    return FDPOConfig(output_dir=str(output_dir), **defaults | kwargs)


def perturbed(model: torch.nn.Module) -> None:
    """Moves a policy away from its reference, so that log-ratios are not all zero."""
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)


def first_batch(trainer: DPOTrainer) -> dict[str, Any]:
    """A batch of the first four pairs, in the order of the data."""
    return trainer.data_collator([trainer.train_dataset[i] for i in range(4)])


def loss_and_gradients(trainer: DPOTrainer) -> tuple[float, dict[str, Tensor]]:
    perturbed(trainer.model)
    trainer.model.train()
    loss = trainer.compute_loss(trainer.model, first_batch(trainer))
    loss.backward()
    return loss.item(), {
        name: p.grad.clone() for name, p in trainer.model.named_parameters() if p.grad is not None
    }


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
    folder: Path, pairs: Dataset, tmp_path: Path, ours: dict, trl: dict, lora: bool
) -> None:
    peft_config = LORA if lora else None
    args = config(tmp_path, beta=0.3, tail=None, shared_prompts=False, **ours)
    mine = FDPOTrainer(str(folder), args, train_dataset=pairs, peft_config=peft_config)
    args = DPOConfig(
        output_dir=str(tmp_path), beta=0.3, use_cpu=True, bf16=False, gradient_checkpointing=False,
        per_device_train_batch_size=4, **trl,
    )  # fmt: skip
    theirs = DPOTrainer(str(folder), args=args, train_dataset=pairs, peft_config=peft_config)
    loss, gradients = loss_and_gradients(mine)
    expected_loss, expected_gradients = loss_and_gradients(theirs)
    assert loss == pytest.approx(expected_loss, rel=1e-5, abs=1e-6)
    assert gradients.keys() == expected_gradients.keys()
    gradient = torch.cat([g.flatten() for g in gradients.values()])
    expected = torch.cat([expected_gradients[name].flatten() for name in gradients])
    assert (gradient - expected).norm() <= 1e-5 * expected.norm()


def test_metrics_are_trls_but_for_rewards_and_what_is_added(
    folder: Path, pairs: Dataset, tmp_path: Path
) -> None:
    args = config(tmp_path, loss="fkl", beta=0.3, shared_prompts=False)
    mine = FDPOTrainer(str(folder), args, train_dataset=pairs)
    args = DPOConfig(
        output_dir=str(tmp_path), beta=0.3, use_cpu=True, bf16=False, gradient_checkpointing=False,
        per_device_train_batch_size=4, f_divergence_type="forward_kl",
    )  # fmt: skip
    theirs = DPOTrainer(str(folder), args=args, train_dataset=pairs)
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


def test_rewards_are_beta_times_the_link(folder: Path, pairs: Dataset, tmp_path: Path) -> None:
    args = config(tmp_path, loss="alpha", alpha=0.5, beta=0.3, log_pairs=True, max_steps=4)
    FDPOTrainer(str(folder), args, train_dataset=pairs).train()
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


def test_sft_weight_adds_nats_per_token_of_the_chosen(
    folder: Path, pairs: Dataset, tmp_path: Path
) -> None:
    losses = []
    for weight in (0.0, 0.5):
        trainer = FDPOTrainer(str(folder), config(tmp_path, sft_weight=weight), train_dataset=pairs)
        losses.append(loss_and_gradients(trainer)[0])
    rows = DataCollatorForPreference(pad_token_id=0)([trainer.train_dataset[i] for i in range(4)])
    ids, mask = rows["input_ids"][:4], rows["completion_mask"][:4, 1:]
    logits = trainer.model(ids, attention_mask=rows["attention_mask"][:4]).logits[:, :-1]
    nats = torch.nn.functional.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none")
    per_token = ((nats * mask).sum(dim=1) / mask.sum(dim=1)).mean()
    assert losses[1] - losses[0] == pytest.approx(0.5 * per_token.item(), rel=1e-4)


def weights(folder: Path) -> dict[str, Tensor]:
    return load_file(next(folder.glob("*model.safetensors")))


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_resuming_gives_the_weights_of_an_uninterrupted_run(
    folder: Path, pairs: Dataset, tmp_path: Path, lora: bool
) -> None:
    def run(name: str, **kwargs: Any) -> Path:
        args = config(
            tmp_path / name, loss="jsd", num_train_epochs=2, save_strategy="steps", save_steps=3,
            gradient_accumulation_steps=2, per_device_train_batch_size=2,
        )  # fmt: skip
        trainer = FDPOTrainer(
            str(folder), args, train_dataset=pairs, peft_config=LORA if lora else None
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
    folder: Path, pairs: Dataset, tmp_path: Path, options: dict[str, Any]
) -> None:
    results = []
    for number, extra in enumerate(({}, options)):
        args = config(tmp_path / str(number), loss="jsd", max_steps=3, seed=3, **extra)
        trainer = FDPOTrainer(str(folder), args, train_dataset=pairs)
        trainer.train()
        results.append({k: v.detach().clone() for k, v in trainer.model.state_dict().items()})
    for name, weight in results[0].items():
        torch.testing.assert_close(results[1][name], weight, rtol=1e-4, atol=1e-5)


def test_bf16_evaluation_and_accuracy(folder: Path, pairs: Dataset, tmp_path: Path) -> None:
    args = config(
        tmp_path, loss="jeffreys", bf16=True, num_train_epochs=12, eval_strategy="epoch",
        learning_rate=3e-3,
    )  # fmt: skip
    trainer = FDPOTrainer(str(folder), args, train_dataset=pairs, eval_dataset=pairs)
    trainer.train()
    evaluations = [row for row in trainer.state.log_history if "eval_loss" in row]
    assert len(evaluations) == 12
    assert evaluations[-1]["eval_loss"] < evaluations[0]["eval_loss"] < math.log(2) + 0.05
    assert evaluations[-1]["eval_rewards/accuracies"] > 0.9
    assert trainer.evaluate()["eval_rewards/margins"] > 0


def test_cut_completions_get_no_end_token(folder: Path, pairs: Dataset, tmp_path: Path) -> None:
    cut = pairs.add_column("chosen_truncated", [True, False] * 8)
    trainer = FDPOTrainer(str(folder), config(tmp_path), train_dataset=cut)
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(2)])
    ends = [ids[-1].item() for ids in batch["targets"].split(batch["sizes"].tolist())]
    end = trainer.processing_class.eos_token_id
    assert batch["pairs"].tolist() == [[0, 1], [2, 3]]
    assert [token == end for token in ends] == [False, True, True, True]


def test_conversations_train(folder: Path, pair_rows: list[dict[str, str]], tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
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
        str(folder),
        config(tmp_path, num_train_epochs=8, learning_rate=3e-3),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
    )
    trainer.train()
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    assert losses[0] == pytest.approx(math.log(2), abs=1e-5)
    assert losses[-1] < 0.6


def test_router_loss_is_kept(pairs: Dataset, folder: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer, MixtralConfig, MixtralForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(folder)
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
    aux_loss = trainer.means["train"]["aux_loss"][0]
    assert aux_loss > 0
    assert losses[0.5] - losses[0.0] == pytest.approx(0.5 * aux_loss, rel=1e-4)


def test_a_gradient_that_is_not_finite_names_step_and_pair(
    folder: Path, pairs: Dataset, tmp_path: Path
) -> None:
    trainer = FDPOTrainer(str(folder), config(tmp_path), train_dataset=pairs)
    batch = trainer.data_collator([trainer.train_dataset[i] for i in (3, 5, 7)])
    trainer.model.train()
    broken = torch.tensor(trainer.train_dataset[5]["prompt_ids"])

    def poison(module: Any, inputs: Any, output: Tensor) -> None:
        """Poisons the gradient of rows that begin as pair 5 does."""
        bad = (inputs[0][:, : len(broken)] == broken).all(dim=1)
        if output.requires_grad:
            output.register_hook(lambda g: torch.where(bad[:, None, None], math.inf, g))

    trainer.model.transformer.wte.register_forward_hook(poison)
    trainer.compute_loss(trainer.model, batch).backward()
    with pytest.raises(FloatingPointError, match=r"^step 1: the gradient of pair 5 \(' "):
        trainer.check_gradients()


def test_a_loss_that_is_not_finite_names_step_and_pair(
    folder: Path, pairs: Dataset, tmp_path: Path
) -> None:
    broken = pairs.add_column("ref_chosen_logps", [-9.0] * 11 + [math.nan] + [-9.0] * 4)
    broken = broken.add_column("ref_rejected_logps", [-9.0] * 16)
    trainer = FDPOTrainer(str(folder), config(tmp_path, max_steps=4), train_dataset=broken)
    trainer.precompute_ref_logps = True  # as if the cache held a NaN
    with pytest.raises(FloatingPointError, match=r"^step \d: the loss of pair 11 \(' .* is nan"):
        trainer.train()


def test_model_card_names_divergence_strength_and_data(
    folder: Path, pairs: Dataset, tmp_path: Path
) -> None:
    args = config(tmp_path, loss="alpha", alpha=0.5, beta=0.25)
    trainer = FDPOTrainer(str(folder), args, train_dataset=pairs, dataset_name="me/films")
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


def test_two_processes_give_the_curve_of_one(folder: Path, pairs: Dataset, tmp_path: Path) -> None:
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
            [*command, str(folder), str(tmp_path / "data"), str(out), size],
            check=True, env=environment, capture_output=True, timeout=300,
        )  # fmt: skip
        curves.append(json.loads((out / "curve.json").read_text()))
    for one, two in zip(*curves, strict=True):
        for name in ("loss", "grad_norm", "rewards/margins", "log_ratios/chosen", "entropy"):
            assert two[name] == pytest.approx(one[name], rel=1e-3, abs=1e-6), name


def test_trackers_write_runs_offline(
    folder: Path, pairs: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import wandb

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "tensorboard"))
    args = config(tmp_path, loss="jsd", max_steps=2, report_to=["wandb", "tensorboard"])
    trainer = FDPOTrainer(str(folder), args, train_dataset=pairs)
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


def test_collator_follows_the_configuration(folder: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    collator = pair_collator(tokenizer, config(tmp_path, max_length=17))
    assert isinstance(collator, PairCollator)
    assert (collator.max_length, collator.pad_token_id) == (17, tokenizer.pad_token_id)
