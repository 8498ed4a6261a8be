"""Log-probabilities of the tokens of a batch's completions under a language model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, cast

import torch
from peft import PeftModel
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from fdpo.llm.chunked_head import chunked_head
from fdpo.llm.collator import PREFIX, PairBatch, PairCollator
from fdpo.llm.generation.batches import evaluation_mode
from fdpo.llm.stacked import MASK

NOT_FOR_MODELS = frozenset(PairBatch.__annotations__) - {"input_ids", "attention_mask"} | {MASK}
"""Fields of a batch that are no arguments of a model."""

TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-8}
"""Differences of a log-probability that rounding explains, by dtype; 0.1 for other dtypes."""


def token_log_probs(model: Any, batch: PairBatch, unwrapped: nn.Module, **kwargs: Any) -> Any:
    """Runs a batch through TRL's fused head, which only the predicting positions meet.

    Arguments:
        model: The model to call, as a launcher may have wrapped it.
        batch: The batch.
        unwrapped: The same model unwrapped, with or without an adapter.
        **kwargs: Further arguments of the model.

    Returns:
        TRL's outputs: ``log_probs`` and other fields with a value for each target of the batch have
        shape (1, T).
    """
    with _only_predicting(_backbone(unwrapped), batch), chunked_head(batch["input_ids"].device):
        targets = batch["targets"][None]
        return model(**model_inputs(batch), shift_labels=targets, fused_lm_head=True, **kwargs)


def sum_by_completion(values: Tensor, num_targets: Tensor) -> Tensor:
    """Sums values of targets, with shape (1, T), over each completion: fp32 with shape (N)."""
    # one by one in fp32, 256 tokens of 11 nats lose 1e-3 nats; not every device has float64
    wide = torch.float32 if values.device.type == "mps" else torch.float64
    each = values[0].to(wide).split(num_targets.tolist())
    return pad_sequence(list(each), batch_first=True).sum(dim=1).float()


def model_inputs(batch: PairBatch) -> dict[str, Any]:
    """Returns the arguments with which a language model predicts a batch's tokens."""
    if MASK in batch:  # another collator's: what is not ours is the model's
        return {k: v for k, v in batch.items() if k not in NOT_FOR_MODELS} | {"use_cache": False}
    inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    if "segments" in batch:
        inputs["position_ids"] = batch["position_ids"]
        inputs["attention_mask"] = packed_mask(batch["segments"])
    return {**inputs, "use_cache": False}


def packed_mask(segments: Tensor) -> Tensor:
    """Returns the attention mask of packed rows, with shape (R, 1, L, L).

    A token attends to the earlier ones of its prompt and of its completion, and to itself.
    """
    query, key = segments[:, :, None], segments[:, None, :]
    length = segments.shape[1]
    before = torch.ones(length, length, dtype=torch.bool, device=segments.device).tril()
    return (before & ((key == PREFIX) | (key == query)))[:, None]


def packing_obstacle(model: Any) -> str:
    """Returns why a model cannot run packed rows, "" if it can.

    Its configuration rules some models out; others run two completions packed and in two rows.
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
    try:
        with _undisturbed(model):
            error = _packing_error(model, config.vocab_size)
    except Exception as reason:  # a model's own code fails as it likes
        first_line = str(reason).strip().partition("\n")[0]
        return f"a trial of it fails ({type(reason).__name__}: {first_line[:120]})"
    if not error <= TOLERANCE.get(bare.dtype, 0.1):
        return (
            f"it does not follow the mask and positions (a log-probability is off by {error:.2g})"
        )
    return ""


@contextmanager
def _undisturbed(model: nn.Module) -> Iterator[None]:
    """Runs a model in evaluation mode, and restores modes, weights, buffers and random numbers.

    Some models change in a forward pass: bitsandbytes casts biases, others adapt their positions.
    """
    weights = [(parameter, parameter.data) for parameter in model.parameters()]
    buffers = [
        (m, name, b, b.clone())
        for m in model.modules()
        for name, b in m._buffers.items()
        if b is not None
    ]
    try:
        with evaluation_mode(model), torch.random.fork_rng(devices=_accelerators(model)):
            yield
    finally:
        for parameter, data in weights:
            parameter.data = data
        for module, name, buffer, value in buffers:
            module._buffers[name] = buffer.copy_(value)


def _accelerators(model: nn.Module) -> list[torch.device]:
    devices = {parameter.device for parameter in model.parameters()}
    return [device for device in devices if device.type == "cuda"]


@torch.no_grad()
def _packing_error(model: Any, vocab_size: int) -> float:
    """Returns by how much packing changes a log-probability of two completions."""
    ids = [(7 * i + 3) % vocab_size for i in range(12)]
    pair = {"prompt_ids": ids[:5], "chosen_ids": ids[5:9], "rejected_ids": ids[9:]}
    device = next(model.parameters()).device

    def log_probs(packing: Literal["never", "always"]) -> Tensor:
        batch = PairCollator(pad_token_id=0, packing=packing)([pair])
        return token_log_probs(model, _to(batch, device), model).log_probs

    return (log_probs("never") - log_probs("always")).abs().max().item()


def _to(batch: PairBatch, device: torch.device) -> PairBatch:
    return cast(PairBatch, {name: cast(Tensor, value).to(device) for name, value in batch.items()})


def _backbone(unwrapped: Any) -> nn.Module:
    bare = unwrapped.get_base_model() if isinstance(unwrapped, PeftModel) else unwrapped
    return bare.base_model


@contextmanager
def _only_predicting(backbone: nn.Module, batch: PairBatch) -> Iterator[None]:
    """Reduces the backbone's hidden states to those of the predicting positions.

    Virtual tokens that a prompt-learning adapter puts in front shift the positions.
    """
    rows, positions = batch["predicting"].unbind(1)
    length = batch["input_ids"].shape[1]

    def select(module: nn.Module, inputs: Any, output: Any) -> Any:
        hidden = output.last_hidden_state
        output.last_hidden_state = hidden[rows, positions + hidden.shape[1] - length][None]
        return output

    handle = backbone.register_forward_hook(select)
    try:
        yield
    finally:
        handle.remove()
