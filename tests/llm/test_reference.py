"""The reference: log-probabilities and samples that all runs with the same one share on disk."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig

from fdpo.llm.config import FDPOConfig
from fdpo.llm.generation import reference_samples
from fdpo.llm.generation.sampling import sample
from fdpo.llm.models import load_model, load_tokenizer
from fdpo.llm.reference import fixed_context
from fdpo.llm.trainer import FDPOTrainer
from fdpo.preferences.generate import Completion
from fdpo.runs.cache import ReferenceCache
from tests.conftest import sentence
from tests.llm.training import LORA, perturb

KEYS = torch.tensor([[1, 2], [3, 4], [5, -6]])


def test_files_of_several_processes_add_up(tmp_path: Path) -> None:
    folder = tmp_path / "reference"
    one, two = ReferenceCache(folder), ReferenceCache(folder)
    one.add(KEYS[:2], torch.tensor([-1.5, -2.5]))
    two.add(KEYS[1:], torch.tensor([-2.5, -3.5]))
    for cache in (one, two, two):
        cache.save()
    assert len(list(folder.iterdir())) == 2
    assert ReferenceCache(folder).get(KEYS).tolist() == [-1.5, -2.5, -3.5]
    assert ReferenceCache(folder).get(torch.tensor([[7, 7]])).isnan().all()


def test_values_that_are_not_finite_are_not_cached(tmp_path: Path) -> None:
    cache = ReferenceCache(tmp_path)
    cache.add(KEYS, torch.tensor([-1.0, float("nan"), float("-inf")]))
    assert cache.get(KEYS).isnan().tolist() == [False, True, True]


@pytest.fixture
def train(tiny_model: Path, pair_rows: list[dict[str, str]], tmp_path: Path) -> Any:
    """Trains the tiny model; returns its losses and the number of batches the reference ran."""

    def run(name: str, peft: bool = False, **options: Any) -> tuple[list[float], int]:
        small = {"per_device_train_batch_size": 4, "learning_rate": 1e-3, "logging_steps": 1}
        cached = {"reference_cache": str(tmp_path / "cache"), "save_strategy": "no"}
        trainer = FDPOTrainer(
            str(tiny_model),
            FDPOConfig(str(tmp_path / name), **{**small, **cached, **options}),
            train_dataset=Dataset.from_list(pair_rows),
            peft_config=LORA if peft else None,
        )
        batches, compute = [], trainer.reference.compute
        trainer.reference.compute = lambda *a: batches.append(1) or compute(*a)  # type: ignore
        trainer.train()
        return [row["loss"] for row in trainer.state.log_history if "loss" in row], len(batches)

    return run


@pytest.mark.parametrize("peft", [False, True], ids=["full", "lora"])
def test_a_sweep_runs_the_reference_once(train: Any, tmp_path: Path, peft: bool) -> None:
    """Neither loss, beta, learning rate nor epoch matters; other weights, other precision do."""
    _, first = train("first", peft, num_train_epochs=2)
    assert first == 4  # one epoch of 16 pairs
    others: dict[str, dict[str, Any]] = {
        "loss": {"loss": "jsd", "beta": 0.5},
        "rate": {"learning_rate": 3e-3, "seed": 5},
        "accumulation": {"gradient_accumulation_steps": 2},
    }
    for name, options in others.items():
        cached, batches = train(name, peft, **options)
        plain, _ = train(f"{name}-off", peft, **options, reference_cache="off")
        assert batches == 0 and cached == pytest.approx(plain, rel=1e-5, abs=1e-6), name
    assert train("bf16", peft, bf16=True)[1] == 4
    assert train("shorter", peft, max_length=8)[1] > 0
    assert len(list((tmp_path / "cache").iterdir())) == 2  # fp32 and bf16


def test_another_reference_has_another_folder(
    train: Any, tiny_model: Path, pair_rows: list[dict[str, str]], tmp_path: Path
) -> None:
    train("first")
    other = AutoModelForCausalLM.from_pretrained(tiny_model)
    with torch.no_grad():
        next(iter(other.parameters()))[0, 0] += 1e-3
    args = FDPOConfig(str(tmp_path / "o"), reference_cache=str(tmp_path / "cache"))
    trainer = FDPOTrainer(
        str(tiny_model), args, ref_model=other, train_dataset=Dataset.from_list(pair_rows)
    )
    assert trainer.reference.cache.enabled and len(trainer.reference.cache) == 0


def test_its_samples_are_cached(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cached samples equal new ones; another seed or other weights sample again."""
    model, tokenizer = load_model(str(tiny_model)), load_tokenizer(str(tiny_model))
    prompts, options = [" the film", " I"], {"samples": 16, "max_new_tokens": 40, "seed": 1}
    plain = sample(model, tokenizer, prompts, **options)
    calls = []

    def counted(*args: Any, **kwargs: Any) -> list[list[Completion]]:
        calls.append(1)
        return sample(*args, **kwargs)

    monkeypatch.setattr(reference_samples, "sample", counted)

    def cached(**other: Any) -> list[list[Completion]]:
        given = {"folder": str(tmp_path), **options, **other}
        return reference_samples.reference_samples(model, tokenizer, prompts, **given)

    assert cached() == cached() == plain and len(calls) == 1
    assert {completion.truncated for row in plain for completion in row} == {False, True}
    cached(seed=2)
    with torch.no_grad():
        model.transformer.wte.weight[0, 0] += 1e-3
    cached()
    assert len(calls) == 3
    cached(folder="off")
    assert len(list(tmp_path.iterdir())) == 3
    again = cached()
    for damaged in ("", '{"drawn": 5}\n' * 2, '{"drawn": [["a", 1]]}\n' * 2, '{"drawn": [[[1'):
        for file in tmp_path.iterdir():
            file.write_text(damaged)
        assert cached() == cached() == again
    assert len(calls) == 8


LENGTHS = {
    "dynamic": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4},
    "longrope": {
        "rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [4.0] * 4,
        "original_max_position_embeddings": 16, "rope_theta": 1e4, "factor": 4.0,
    },
}  # fmt: skip


@pytest.mark.parametrize("kind", LENGTHS)
def test_where_the_longest_text_of_a_batch_matters_nothing_is_cached(
    tiny_model: Path, tmp_path: Path, kind: str
) -> None:
    """An untouched policy has ratios of one, whatever batches an earlier run cached."""
    shape = {"vocab_size": 320, "hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 32}
    shape |= {"num_attention_heads": 4, "num_key_value_heads": 4}
    context = 16 if kind == "dynamic" else 64
    configuration = LlamaConfig(
        **shape, max_position_embeddings=context, rope_parameters=LENGTHS[kind]
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(configuration)
    perturb(model)
    model.save_pretrained(tmp_path / kind)
    load_tokenizer(str(tiny_model)).save_pretrained(tmp_path / kind)
    sizes = [3, 20, 4, 5, 24, 6, 3, 22]
    rows = [
        {"prompt": " a", "chosen": sentence(i, n), "rejected": " bad"} for i, n in enumerate(sizes)
    ]
    for batch_size in (4, 1, 3):
        args = FDPOConfig(
            str(tmp_path / "run"),
            reference_cache=str(tmp_path / "cache"),
            per_device_eval_batch_size=batch_size,
            max_length=None,
        )
        data = Dataset.from_list(rows)
        trainer = FDPOTrainer(str(tmp_path / kind), args, train_dataset=data, eval_dataset=data)
        metrics = trainer.evaluate()
        assert metrics["eval_loss"] == pytest.approx(math.log(2), abs=1e-5)
        assert metrics["eval_log_ratios/chosen"] == pytest.approx(0, abs=1e-4)
        trainer.reference.save()
    assert 0 < len(trainer.reference.cache) < 16


def test_lengths_that_do_not_matter() -> None:
    assert fixed_context(LlamaConfig()) is None
    assert fixed_context(GPT2Config()) is None
    linear = {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}
    assert fixed_context(LlamaConfig(rope_parameters=linear)) is None
    assert fixed_context(LlamaConfig(rope_parameters=LENGTHS["longrope"])) == 16
