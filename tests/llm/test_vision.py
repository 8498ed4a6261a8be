"""Vision-language models: TRL's batches, our loss, a model that carries its processor."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from PIL import Image
from transformers import (
    AutoProcessor,
    AutoTokenizer,
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)
from trl import DPOTrainer

import fdpo
from fdpo.llm.trainer import FDPOTrainer
from tests.llm.training import config, first_batch, perturb

TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{% for part in m.content %}"
    "{% if part.type == 'image' %}<image>{% else %}{{ part.text }}{% endif %}{% endfor %}<|end|>"
    "{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)


@pytest.fixture(scope="module")
def vision_model(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an untrained LLaVA of two layers and its processor."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>", "<|end|>"]})
    clip = {"size": {"shortest_edge": 28}, "crop_size": {"height": 28, "width": 28}}
    processor = LlavaProcessor(
        CLIPImageProcessor(**clip), tokenizer, patch_size=14, num_additional_image_tokens=1,
        vision_feature_select_strategy="default", chat_template=TEMPLATE,
    )  # fmt: skip
    heads = {"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 16}
    torch.manual_seed(0)
    model = LlavaForConditionalGeneration(
        LlavaConfig(
            text_config=LlamaConfig(**heads, vocab_size=len(tokenizer), intermediate_size=32),
            vision_config=CLIPVisionConfig(
                **heads, intermediate_size=32, image_size=28, patch_size=14, projection_dim=16
            ),
            image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        )
    )
    folder = tmp_path_factory.mktemp("tiny-llava")
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def rows(pair_rows: list[dict[str, str]]) -> list[dict[str, Any]]:
    """Nine pairs on images."""
    roles = {"prompt": "user", "chosen": "assistant", "rejected": "assistant"}
    generator = np.random.default_rng(0)
    return [
        {"image": Image.fromarray(generator.integers(0, 255, (32, 40, 3)).astype("uint8"))}
        | {name: [{"role": role, "content": row[name]}] for name, role in roles.items()}
        for row in pair_rows[:9]
    ]


def test_images_have_the_loss_of_trl(
    vision_model: Path, rows: list[dict[str, Any]], tmp_path: Path,
    recwarn: pytest.WarningsRecorder,
) -> None:  # fmt: skip
    results = []
    for kind in (DPOTrainer, FDPOTrainer):
        trainer = kind(
            str(vision_model), args=config(tmp_path), train_dataset=Dataset.from_list(rows)
        )
        perturb(trainer.model)
        loss = trainer.compute_loss(trainer.model, first_batch(trainer))
        loss.backward()
        gradients = {n: p.grad for n, p in trainer.model.named_parameters() if p.grad is not None}
        results.append((loss.item(), gradients))
    (theirs, expected), (mine, gradients) = results
    assert mine == pytest.approx(theirs, rel=1e-5) and mine != pytest.approx(math.log(2), rel=1e-3)
    assert any("vision_tower" in name for name in gradients) and set(gradients) == set(expected)
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-3, atol=1e-6)
    assert any(str(w.message).startswith("prompts are not shared: ") for w in recwarn)


def test_any_divergence_trains_on_images(
    vision_model: Path, rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    data = Dataset.from_list(rows)
    args = config(tmp_path, loss="jeffreys", num_train_epochs=6, learning_rate=3e-3, log_pairs=True)
    trainer = FDPOTrainer(str(vision_model), args, train_dataset=data, eval_dataset=data)
    trainer.train()
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    assert losses[0] == pytest.approx(math.log(2), abs=1e-5) and losses[-1] < losses[0] - 0.02
    margins, prompts = trainer.held_out_margins()
    assert len(margins) == len(prompts) == 9
    assert trainer.evaluate(data)["eval_rewards/margins"] == pytest.approx(
        margins.mean().item(), rel=1e-4
    )
    trainer.save_model(str(tmp_path / "saved"))
    assert isinstance(AutoProcessor.from_pretrained(tmp_path / "saved"), LlavaProcessor)


@pytest.mark.parametrize("peft", [False, True], ids=["full", "lora"])
def test_an_untouched_model_is_its_reference(
    vision_model: Path, rows: list[dict[str, Any]], tmp_path: Path, peft: bool
) -> None:
    from peft import LoraConfig

    lora = LoraConfig(r=2, target_modules=["q_proj", "v_proj"]) if peft else None
    trainer = FDPOTrainer(
        str(vision_model), config(tmp_path, loss="jsd"), train_dataset=Dataset.from_list(rows),
        peft_config=lora,
    )  # fmt: skip
    metrics = trainer.evaluate(trainer.train_dataset)
    assert metrics["eval_loss"] == pytest.approx(math.log(2), rel=1e-6)
    assert metrics["eval_log_ratios/chosen"] == metrics["eval_log_ratios/rejected"] == 0


def test_texts_train_a_vision_model(vision_model: Path, pairs: Dataset, tmp_path: Path) -> None:
    """Its processor gives TRL's batches; marks of cut completions are read all the same."""
    marked = pairs.add_column("chosen_truncated", [True, False] * 8)
    args = config(tmp_path, loss="alpha", alpha=0.5, max_steps=2)
    trainer = FDPOTrainer(str(vision_model), args, train_dataset=marked)
    end = trainer.processing_class.tokenizer.eos_token_id
    ends = [ids[-1] == end for ids in trainer.train_dataset["chosen_ids"]]
    assert ends == [False, True] * 8
    trainer.train()
    assert trainer.divergence == fdpo.get_divergence("alpha", alpha=0.5)
    assert trainer.state.log_history[-1]["train_loss"] > 0


def test_options_that_images_rule_out(
    vision_model: Path, tiny_model: Path, rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    data = Dataset.from_list(rows)
    with pytest.raises(ValueError, match="--shared_prompts: .*from a processor"):
        FDPOTrainer(str(vision_model), config(tmp_path, shared_prompts=True), train_dataset=data)
    with pytest.raises(ValueError, match="vision-language model"):
        FDPOTrainer(str(tiny_model), config(tmp_path), train_dataset=data)
    marked = data.add_column("rejected_truncated", [False] * 8 + [True])
    with pytest.raises(ValueError, match="^rejected_truncated: .*images"):
        FDPOTrainer(str(vision_model), config(tmp_path), train_dataset=marked)
    trainer = FDPOTrainer(str(vision_model), config(tmp_path, max_length=5), train_dataset=data)
    with pytest.raises(ValueError, match="^--max_length 5 cuts tokens of images") as error:
        trainer.train()
    assert "\n" not in str(error.value)
