"""Small random models of the tested architectures, without dropout."""

from __future__ import annotations

import copy
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
    PreTrainedModel,
    Qwen2Config,
)

SMALL: dict[str, Any] = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 2}
HEADS = {"num_attention_heads": 2, "intermediate_size": 32, "max_position_embeddings": 64}
SHAREABLE = {
    "gpt2": GPT2Config(
        vocab_size=50, n_embd=16, n_layer=2, n_head=2, n_positions=64,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
    ),
    "gpt_neox": GPTNeoXConfig(**SMALL, **HEADS),
    "llama": LlamaConfig(**SMALL, **HEADS, num_key_value_heads=1),
    "qwen2": Qwen2Config(**SMALL, **HEADS, num_key_value_heads=1),
}  # fmt: skip
"""Models that run packed rows, a prompt with several completions."""
ALL = {
    **SHAREABLE,
    "mistral": MistralConfig(**SMALL, **HEADS, num_key_value_heads=1, sliding_window=4),
    "mamba": MambaConfig(**SMALL, state_size=4),
}


def make_model(config: Any) -> PreTrainedModel:
    """Makes a model whose weights all differ from their initial values."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(copy.deepcopy(config)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape)
    return model
