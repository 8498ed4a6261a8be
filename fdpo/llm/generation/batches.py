"""Batches of sequences of similar length, and inference without gradients and dropout."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Sized
from contextlib import contextmanager

import torch
from torch import nn


def by_length(sequences: Sequence[Sized], size: int) -> Iterator[list[int]]:
    """Returns batches of ``size`` indices, of sequences of similar length.

    Example:
        >>> list(by_length(["aaa", "a", "aa"], 2))
        [[1, 2], [0]]
    """
    order = sorted(range(len(sequences)), key=lambda i: len(sequences[i]))
    return (order[start : start + size] for start in range(0, len(order), size))


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Puts a model into evaluation mode, and each of its modules back into its mode afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def inference(model: nn.Module) -> Iterator[None]:
    """Turns dropout and gradients off inside."""
    with evaluation_mode(model), torch.no_grad():
        yield
