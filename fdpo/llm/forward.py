"""How a language model scores a batch: the log-probabilities of its completions' tokens."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from fdpo.llm.chunked_head import chunked_head
from fdpo.llm.collator import PREFIX, PairCollator

TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-8}  # of a log-probability; others 0.1


def scored(model: Any, batch: Mapping[str, Tensor], bare: nn.Module, **kwargs: Any) -> Any:
    """Runs a batch of :class:`~fdpo.llm.collator.PairCollator` through TRL's fused head.

    Only places that predict a token of a completion meet the head.

    Arguments:
        model: The model to call, as a launcher may have wrapped it.
        batch: The batch.
        bare: The same model unwrapped, with or without an adapter.
        **kwargs: What else the model is called with.

    Returns:
        TRL's outputs, whose per-token fields have the shape (1, T) of the batch's targets.
    """
    with _only_scored(_backbone(bare), batch), chunked_head(batch["input_ids"].device):
        targets = batch["targets"][None]
        return model(**model_inputs(batch), shift_labels=targets, fused_lm_head=True, **kwargs)


def sums(values: Tensor, sizes: Tensor) -> Tensor:
    """Sums per-token values, with shape (1, T), over each completion: fp32 with shape (N)."""
    # one by one in fp32, 256 tokens of 11 nats lose 1e-3 nats; not every device has float64
    wide = torch.float32 if values.device.type == "mps" else torch.float64
    each = values[0].to(wide).split(sizes.tolist())
    return pad_sequence(list(each), batch_first=True).sum(dim=1).float()


def model_inputs(batch: Mapping[str, Tensor]) -> dict[str, Any]:
    """Returns what a language model is called with to predict a batch's tokens."""
    inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    if "segments" in batch:
        inputs["position_ids"] = batch["position_ids"]
        inputs["attention_mask"] = visible(batch["segments"])
    return {**inputs, "use_cache": False}


def visible(segments: Tensor) -> Tensor:
    """Returns which place sees which in shared rows, with shape (R, 1, L, L).

    A place sees what comes before it of the prompt and of its own completion, and itself.
    """
    query, key = segments[:, :, None], segments[:, None, :]
    length = segments.shape[1]
    before = torch.ones(length, length, dtype=torch.bool, device=segments.device).tril()
    return (before & ((key == PREFIX) | (key == query)))[:, None]


def packing_obstacle(model: Any) -> str:
    """Says why a model cannot run several completions in a row with their prompt; "" if it can.

    What its configuration cannot tell is tried: two completions, in one row and in two.
    """
    bare = model.get_base_model() if isinstance(model, PeftModel) else model
    config = bare.config.get_text_config()
    if isinstance(model, PeftModel) and model.active_peft_config.is_prompt_learning:
        return "a prompt-learning adapter puts virtual tokens in front"
    if config._attn_implementation != "sdpa":
        return f"its attention is {config._attn_implementation}, which takes no such mask; use sdpa"
    if getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True):
        return "its attention has a sliding window"
    if hasattr(config, "output_router_logits"):
        return "the loss of its router counts the tokens of plain rows"
    collator = PairCollator(pad_token_id=0)
    ids = [(7 * i + 3) % config.vocab_size for i in range(12)]
    row = {"prompt_ids": ids[:5], "chosen_ids": ids[5:9], "rejected_ids": ids[9:]}
    apart = collator([row])
    collator.hidden_size = 10**6
    together = collator([row])
    device, training = next(model.parameters()).device, model.training
    model.eval()
    with torch.no_grad():
        found = [
            scored(model, {k: v.to(device) for k, v in batch.items()}, model).log_probs
            for batch in (apart, together)
        ]
    model.train(training)
    error = (found[0] - found[1]).abs().max().item()
    if not error <= TOLERANCE.get(bare.dtype, 0.1):
        return (
            f"it does not follow the mask and positions (a log-probability is off by {error:.2g})"
        )
    return ""


def _backbone(bare: Any) -> nn.Module:
    return (bare.get_base_model() if isinstance(bare, PeftModel) else bare).base_model


@contextmanager
def _only_scored(backbone: nn.Module, batch: Mapping[str, Tensor]) -> Iterator[None]:
    """Lets what follows the backbone see the hidden states of scored places only.

    Virtual tokens that a prompt-learning adapter puts in front move the places along.
    """
    rows, places = batch["scored"].unbind(1)
    length = batch["input_ids"].shape[1]

    def select(module: nn.Module, inputs: Any, output: Any) -> Any:
        hidden = output.last_hidden_state
        output.last_hidden_state = hidden[rows, places + hidden.shape[1] - length][None]
        return output

    handle = backbone.register_forward_hook(select)
    try:
        yield
    finally:
        handle.remove()
