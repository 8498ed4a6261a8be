"""Adapters: their reference is the model they were added to, and a trained one is merged."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

from fdpo.llm.models import ModelSource, load_model
from fdpo.llm.reference import require_unchanged_base
from fdpo.llm.trainer import FDPOTrainer
from tests.llm.training import config, perturb

TARGETS: dict[str, Any] = {
    "target_modules": ["c_attn"], "task_type": "CAUSAL_LM", "fan_in_fan_out": True,
}  # fmt: skip


def lora(**options: Any) -> LoraConfig:
    return LoraConfig(r=4, **{**TARGETS, **options})


@pytest.fixture
def make_trainer(tiny_model: Path, pairs: Dataset, tmp_path: Path) -> Any:
    """Makes a trainer of the tiny model, whose cache all trainers of a test share."""

    def make(model: Any = None, peft_config: Any = None, **options: Any) -> FDPOTrainer:
        cached = {"reference_cache": str(tmp_path / "cache"), "save_strategy": "no", **options}
        args, model = config(tmp_path / "run", **cached), model or str(tiny_model)
        return FDPOTrainer(model, args, train_dataset=pairs, peft_config=peft_config)

    return make


def first_loss(trainer: FDPOTrainer) -> float:
    trainer.train()
    return next(row["loss"] for row in trainer.state.log_history if "loss" in row)


NOISY: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "dropout": ({"lora_dropout": 0.5}, {"disable_dropout": False}),
    "neftune": ({}, {"neftune_noise_alpha": 5.0}),
    "bias": ({"bias": "all"}, {}),
    "bias and accumulation": ({"bias": "lora_only"}, {"gradient_accumulation_steps": 2}),
}


@pytest.mark.parametrize("name", NOISY)
def test_training_with_noise_leaves_the_reference_as_it_was(
    make_trainer: Any, tiny_model: Path, name: str
) -> None:
    """Its cached log-probabilities are the plain model's; a later default run starts at log 2."""
    adapter, options = NOISY[name]
    noisy = make_trainer(peft_config=lora(**adapter), learning_rate=0.1, **options)
    noisy.train()
    moved = [p for n, p in noisy.model.named_parameters() if n.endswith("bias") and p.requires_grad]
    assert bool(moved) == ("bias" in adapter)
    plain = make_trainer(peft_config=lora(), reference_cache="off")
    for batch in plain.get_train_dataloader():
        cached = noisy.reference.cache.get(batch["keys"])
        expected = plain.reference.compute(plain.model, batch)
        torch.testing.assert_close(cached, expected, atol=2e-4, rtol=0)
    later = make_trainer(peft_config=lora())
    assert len(later.reference.cache) > 0
    assert first_loss(later) == pytest.approx(math.log(2), abs=1e-5)


def test_training_goes_on_after_the_reference_has_run(make_trainer: Any) -> None:
    trainer = make_trainer(peft_config=lora(bias="all"), disable_dropout=False)
    perturb(trainer.model)
    trainer.model.train()
    before = {name: p.clone() for name, p in trainer.model.named_parameters()}
    modes = [module.training for module in trainer.model.modules()]
    trainer.compute_loss(trainer.model, next(iter(trainer.get_train_dataloader()))).backward()
    assert [module.training for module in trainer.model.modules()] == modes
    for name, parameter in trainer.model.named_parameters():
        assert torch.equal(parameter, before[name])
        assert not parameter.requires_grad or parameter.grad is not None, name


@pytest.mark.parametrize("start", ["pissa", "pissa_niter_2", "olora", "lora_ga", "loftq"])
def test_an_adapter_that_takes_a_part_of_the_base_is_refused(tiny_model: Path, start: str) -> None:
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_model), lora())
    model.peft_config["default"].init_lora_weights = start
    with pytest.raises(ValueError, match=f"init_lora_weights='{start}' changes the base"):
        require_unchanged_base(model)


def test_it_trains_with_a_reference_that_is_given(
    make_trainer: Any, tiny_model: Path, pairs: Dataset, tmp_path: Path
) -> None:
    adapter = lora(init_lora_weights="pissa")
    with pytest.raises(ValueError, match="give ref_model"):
        make_trainer(peft_config=adapter)
    trainer = FDPOTrainer(
        str(tiny_model),
        config(tmp_path / "given"),
        ref_model=AutoModelForCausalLM.from_pretrained(tiny_model),
        train_dataset=pairs,
        peft_config=adapter,
    )
    assert first_loss(trainer) == pytest.approx(math.log(2), abs=1e-4)


@pytest.fixture
def adapter_folder(tiny_model: Path, tmp_path: Path) -> Path:
    """A trained adapter of the tiny model, as SFT with LoRA leaves it."""
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_model), lora())
    perturb(model)
    model.save_pretrained(tmp_path / "sft")
    ModelSource(str(tiny_model)).tokenizer().save_pretrained(tmp_path / "sft")
    return tmp_path / "sft"


def log_probs(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.arange(20)[None]).logits.log_softmax(-1)


@pytest.mark.parametrize("peft_config", [None, lora()], ids=["full", "lora"])
def test_a_trained_adapter_is_merged_and_is_the_reference(
    make_trainer: Any,
    adapter_folder: Path,
    tmp_path: Path,
    peft_config: Any,
) -> None:
    with pytest.warns(UserWarning, match="sft: an adapter, merged into its base before the train"):
        trainer = make_trainer(str(adapter_folder), peft_config)
    sft = load_model(str(adapter_folder))
    torch.testing.assert_close(log_probs(trainer.model.eval()), log_probs(sft))
    assert first_loss(trainer) == pytest.approx(math.log(2), abs=1e-5)
    assert not torch.allclose(log_probs(trainer.model.eval()), log_probs(sft), atol=1e-4)
    trainer.save_model(str(tmp_path / "dpo"))
    # An adapter on an adapter: the first is merged before the second is added.
    loaded = load_model(str(tmp_path / "dpo"))
    torch.testing.assert_close(log_probs(loaded), log_probs(trainer.model), atol=1e-5, rtol=0)
    whole = ModelSource(str(tmp_path / "dpo")).whole_model(AutoModelForCausalLM.from_pretrained)
    assert not isinstance(whole, PeftModel)
    torch.testing.assert_close(log_probs(whole.eval()), log_probs(loaded), atol=1e-5, rtol=0)


def test_a_model_that_is_given_is_its_own_reference(make_trainer: Any, tiny_model: Path) -> None:
    """Not the files that it came from, which differ from it by now."""
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    perturb(model)
    assert first_loss(make_trainer(model)) == pytest.approx(math.log(2), abs=1e-5)
