"""What sampling, search and scoring share: batches of token sequences that grow under a model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Sized
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.cache_utils import DynamicLayer


@dataclass(frozen=True)
class Completion:
    """A completion as it was generated.

    ``ids`` are the generated tokens, with the end token if there is one; ``truncated`` says that
    there is none, because the completion was cut. ``log_prob`` is log π(y | x) of the plain model.
    """

    text: str
    ids: list[int]
    truncated: bool
    log_prob: float


def prompt_ids(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str]) -> list[list[int]]:
    """Tokenises prompts; of an empty one remains the begin token, where every text starts."""
    start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    return [tokenizer(prompt)["input_ids"] or [start] for prompt in prompts]


class PreallocatedCacheLayer(DynamicLayer):
    """The keys and values of a layer in buffers with room, where a token joins those before it.

    transformers' own layer copies all of them into new memory for every token, which takes longer
    than the model itself.
    """

    ROOM = 32  # places by which buffers grow
    buffers: tuple[Tensor, Tensor]
    keys: Tensor
    values: Tensor

    def __init__(self, layer: DynamicLayer) -> None:
        super().__init__()
        self.lazy_initialization(layer.keys, layer.values)
        self._show((layer.keys, layer.values), layer.get_seq_length())

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        start, new = self.get_seq_length(), key_states.shape[-2]
        if start + new > self.buffers[0].shape[-2]:
            room = new + self.ROOM
            self.buffers = _with_room(self.keys, room), _with_room(self.values, room)
        for buffer, states in zip(self.buffers, (key_states, value_states), strict=True):
            buffer.narrow(-2, start, new).copy_(states)
        self._show(self.buffers, start + new)
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        keys, values = self.buffers
        self._show((keys[indices], values[indices]), self.get_seq_length())

    def _show(self, buffers: tuple[Tensor, Tensor], length: int) -> None:
        self.buffers = buffers
        self.keys, self.values = (buffer.narrow(-2, 0, length) for buffer in buffers)


def _with_room(states: Tensor, room: int) -> Tensor:
    shape = list(states.shape)
    shape[-2] += room
    buffer = states.new_empty(shape)
    buffer.narrow(-2, 0, states.shape[-2]).copy_(states)
    return buffer


class Decoder:
    """Sequences that grow, and what comes next in each.

    A prompt is run once for all its copies. A model that gives no key-value cache (a recurrent one)
    runs its sequences whole at every token.

    ``ids``, with shape (B, T), are -1 where they are padded, on the left. ``log_probs``, with
    shape (B, V) and in float32, are those of the next tokens.
    """

    log_probs: Tensor

    def __init__(
        self, model: PreTrainedModel, prompts: Sequence[Sequence[int]], copies: int
    ) -> None:
        self.model = model
        self.cache: Any = None
        length = max(map(len, prompts))
        self.ids = torch.tensor(
            [[-1] * (length - len(ids)) + [*ids] for ids in prompts], device=device_of(model)
        )
        self._forward()
        layers = getattr(self.cache, "layers", [])
        for number, layer in enumerate(layers):
            if type(layer) is DynamicLayer:  # others, of a sliding window say, do not grow
                layers[number] = PreallocatedCacheLayer(layer)
        rows = torch.arange(len(prompts), device=self.ids.device)
        self.select(rows.repeat_interleave(copies))

    def append(self, tokens: Tensor) -> None:
        """Adds a token to each sequence."""
        self.ids = torch.cat([self.ids, tokens[:, None]], 1)
        self._forward()

    def select(self, rows: Tensor) -> None:
        """Goes on with these sequences, in this order; one may occur several times."""
        self.ids = self.ids[rows]
        self.log_probs = self.log_probs[rows]
        if self.cache is not None:
            self.cache.batch_select_indices(rows)

    def _forward(self) -> None:
        new = self.ids.shape[1] if self.cache is None else 1
        mask = (self.ids >= 0).long()
        output = self.model(
            input_ids=self.ids[:, -new:].clamp(min=0),
            attention_mask=mask,
            position_ids=(mask.cumsum(1) - 1).clamp(min=0)[:, -new:],
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        self.cache = getattr(output, "past_key_values", None)
        self.log_probs = output.logits[:, -1].float().log_softmax(-1)


def decode_completion(
    tokenizer: PreTrainedTokenizerBase,
    start: list[int],
    ids: list[int],
    log_prob: float,
    ends: set[int],
) -> Completion:
    """Makes a `Completion` of the ids that were generated after ``start``."""
    truncated = ids[-1] not in ends
    # What the ids add to the prompt's text: some tokenizers drop the space of a first token.
    kwargs = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}
    shown = ids if truncated else ids[:-1]
    before, whole = tokenizer.decode(start, **kwargs), tokenizer.decode(start + shown, **kwargs)
    if whole.startswith(before):
        text = whole[len(before) :]
    else:
        text = tokenizer.decode(shown, **kwargs)
    return Completion(text, ids, truncated, log_prob)


def end_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """The tokens that end a text: the tokenizer's and those of the model's generation config."""
    configured = getattr(model.generation_config, "eos_token_id", None)
    several = configured if isinstance(configured, list) else [configured]
    return {token for token in (tokenizer.eos_token_id, *several) if token is not None}


def context_of(model: PreTrainedModel) -> int | None:
    """The tokens that a model takes, where it has a limit."""
    return getattr(model.config, "max_position_embeddings", None)


def require_room(
    model: PreTrainedModel, prompts: Sequence[str], ids: list[list[int]], max_new_tokens: int
) -> None:
    """Raises `ValueError` if a prompt and its completion exceed the model's context."""
    context = context_of(model)
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens must be at least 1, not {max_new_tokens}")
    for number, (prompt, tokens) in enumerate(zip(prompts, ids, strict=True), 1):
        if context is not None and len(tokens) + max_new_tokens > context:
            raise ValueError(
                f"prompt {number} ({prompt[:40]!r}) has {len(tokens)} tokens; with "
                f"{max_new_tokens} new ones it exceeds the model's context of {context}"
            )


def device_of(model: PreTrainedModel) -> torch.device:
    """Where a model is."""
    return next(model.parameters()).device


def by_length(sequences: Sequence[Sized], size: int) -> Iterator[list[int]]:
    """Batches of indices, of sequences of similar length."""
    order = sorted(range(len(sequences)), key=lambda i: len(sequences[i]))
    return (order[start : start + size] for start in range(0, len(order), size))


@contextmanager
def inference(model: PreTrainedModel) -> Iterator[None]:
    """Neither dropout nor gradients inside; the model's mode is put back after."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)
