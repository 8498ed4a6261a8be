"""Decoding: batches of token sequences that grow under a language model, with a key-value cache."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import DynamicLayer


class PreallocatedCacheLayer(DynamicLayer):
    """A layer's cache of keys and values in buffers with room for further tokens.

    A token is written behind those before it. The layer of transformers copies all of them into new
    memory for every token, which takes longer than the model itself.
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
    """A batch of growing sequences, with the log-probabilities of their next tokens.

    A prompt is run once for all its copies. A model without a key-value cache (a recurrent one)
    runs whole sequences at every token.

    Arguments:
        model: A causal language model.
        prompts: The tokens of each prompt.
        copies: The number of sequences that start with each prompt.

    Attributes:
        ids: The tokens, with shape (B, T), padded with -1 on the left.
        log_probs: The log-probabilities of the next tokens, with shape (B, V), in float32.
    """

    log_probs: Tensor

    def __init__(
        self, model: PreTrainedModel, prompts: Sequence[Sequence[int]], copies: int
    ) -> None:
        self.model = model
        self.cache: Any = None
        length = max(map(len, prompts))
        self.ids = torch.tensor(
            [[-1] * (length - len(ids)) + [*ids] for ids in prompts], device=model.device
        )
        self._forward()
        layers = getattr(self.cache, "layers", [])
        for number, layer in enumerate(layers):
            if type(layer) is DynamicLayer:  # others, such as sliding windows, do not grow
                layers[number] = PreallocatedCacheLayer(layer)
        rows = torch.arange(len(prompts), device=self.ids.device)
        self.select(rows.repeat_interleave(copies))

    def append(self, tokens: Tensor) -> None:
        """Adds a token to each sequence."""
        self.ids = torch.cat([self.ids, tokens[:, None]], 1)
        self._forward()

    def select(self, rows: Tensor) -> None:
        """Continues with these sequences, in this order; one may occur several times."""
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
