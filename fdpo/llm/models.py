"""Models and tokenizers by hub id or folder: safetensors only, mistakes in one line."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from fdpo import runs


def require_weights(name: str) -> None:
    """Raises ``ValueError`` if a name is a path that is not there, or a folder without a model."""
    folder = Path(name)
    if not folder.is_dir():
        if folder.is_absolute() or name.startswith(".") or name.count("/") > 1:
            raise ValueError(f"model {name}: no such folder")
        return  # a hub id
    if not any((folder / file).is_file() for file in ("config.json", "adapter_config.json")):
        raise ValueError(f"model {name}: a folder without config.json is no model")
    if not any(folder.glob("*.safetensors")):
        raise ValueError(f"model {name}: no weights in this folder (*.safetensors)")


def load_tokenizer(name: str, revision: str | None = None) -> PreTrainedTokenizerBase:
    """Loads a tokenizer, with the end token for padding where it has no padding token."""
    require_weights(name)
    tokenizer = AutoTokenizer.from_pretrained(name, revision=revision)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_model(
    name: str, device: torch.device | str = "cpu", dtype: str = "float32"
) -> PreTrainedModel:
    """Loads a causal language model (or an adapter on one) for sampling and scoring."""
    require_weights(name)
    model = AutoModelForCausalLM.from_pretrained(name, dtype=dtype, use_safetensors=True)
    return model.to(device).eval()


def fitting_length(name: str, max_length: int | None) -> int | None:
    """Returns ``max_length``, or the model's context where that is shorter."""
    config = AutoConfig.from_pretrained(name).get_text_config()
    context = getattr(config, "max_position_embeddings", None)
    return min(filter(None, (max_length, context)), default=None)


def get_reference_name(folder: str) -> str:
    """Returns the model that the run in a folder started from, by its record.

    Raises:
        ValueError: If the folder has no record of a run.
    """
    options = runs.run_options(folder)
    if "model_name_or_path" not in options:
        raise ValueError(f"model {folder}: no {runs.RECORD} in it; name its --reference")
    return options["model_name_or_path"]
