"""An untouched policy: log-ratios of zero and a loss of log 2 however model and run are set up."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from fdpo.llm.models import ModelSource
from fdpo.llm.trainer import FDPOTrainer
from tests.llm.training import LORA, config, perturb

BF16, FP32 = 0.05, 1e-5
"""Rounding of sums of log-probabilities, nats: FP32 where other batches were run."""
RUNS: dict[str, dict[str, Any]] = {
    "plain": {},
    "bf16": {"bf16": True},
    "precomputed": {"precompute_ref_log_probs": True},
    "precomputed in bf16": {"precompute_ref_log_probs": True, "bf16": True},
    "shared prompts": {"shared_prompts": True},
    "each alone": {"shared_prompts": False, "reference_cache": "off"},
}


@pytest.fixture(scope="session")
def adapter(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a trained adapter."""
    folder = tmp_path_factory.mktemp("adapter")
    lora = LoraConfig(r=2, target_modules=["c_attn"], fan_in_fan_out=True)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_model), lora)
    perturb(model)
    model.save_pretrained(folder)
    ModelSource(str(tiny_model)).tokenizer().save_pretrained(folder)
    return folder


def group_rows() -> list[dict[str, str]]:
    """Returns pairs that share prompts and completions, which a batch runs once."""
    texts = [" a fine film", " a bad dull story", " I loved it", " truly great"]
    both = [(one, two) for one in texts for two in texts if one != two]
    return [{"prompt": " the film", "chosen": one, "rejected": two} for one, two in both]


@pytest.mark.parametrize("options", RUNS.values(), ids=RUNS)
@pytest.mark.parametrize("kind", ["full", "lora", "adapter", "lora on an adapter", "object"])
def test_the_first_update_starts_at_log_2(
    tiny_model: Path, adapter: Path, tmp_path: Path, kind: str, options: dict[str, Any]
) -> None:
    model: Any = str(adapter if "adapter" in kind else tiny_model)
    if kind == "object":
        model = AutoModelForCausalLM.from_pretrained(tiny_model)
    cached = {"reference_cache": str(tmp_path / "cache"), **options}
    for run in ("first", "again"):  # the second finds the reference in the cache
        args = config(tmp_path / run, log_pairs=True, max_steps=1, **cached)
        FDPOTrainer(
            model,
            args,
            train_dataset=Dataset.from_list(group_rows()),
            peft_config=LORA if "lora" in kind else None,
        ).train()
        rows = [json.loads(line) for line in (tmp_path / run / "pairs.jsonl").open()]
        rounding = (
            BF16 if "bf16" in options else FP32 if "precompute_ref_log_probs" in options else 0
        )
        for row in rows:
            assert row["chosen_log_ratio"] == pytest.approx(0, abs=rounding)
            assert row["rejected_log_ratio"] == pytest.approx(0, abs=rounding)
            assert row["loss"] == pytest.approx(math.log(2), abs=0.1 * rounding + 1e-6)
        assert len(rows) == 4
