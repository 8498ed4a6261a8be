r"""A language model's head that computes log-probabilities of tokens in tiles, for the CPU.

TRL's fused head holds logits of all tokens by 32,768 words, and as many again for every operation
on them: it is written for a GPU, whose kernels fuse these passes. Here a tile fits into the cache
of the processor, so that the passes cost little and memory hardly grows.

TRL has no public way to replace the function behind its head: :func:`chunked_head` is the only
place that patches it. Where TRL has changed that function, TRL's own head runs.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch
from torch import Tensor
from trl.trainer import utils

ROWS, COLUMNS = 1024, 512
"""Tokens and words of a tile."""

PATCHED = "_ChunkedLogProbFunction"
"""The name in ``trl.trainer.utils`` under which TRL's head looks up its autograd function."""
PARAMETERS = (
    "hidden", "weight", "bias", "targets", "temperature", "chunk_size", "final_logit_softcapping",
    "logit_scale", "outputs",
)  # fmt: skip
"""The parameters of that function which :class:`TiledHead` knows."""

Statistics: TypeAlias = tuple[Tensor, Tensor | None, Tensor | None, Tensor | None, Tensor | None]


@contextmanager
def chunked_head(device: torch.device) -> Iterator[None]:
    """Makes TRL's fused heads work in tiles on a CPU, within the context."""
    function = getattr(utils, PATCHED, None)
    if device.type != "cpu" or not _is_known(function):
        yield
        return
    setattr(utils, PATCHED, TiledHead(function))
    try:
        yield
    finally:
        setattr(utils, PATCHED, function)


def _is_known(function: Any) -> bool:
    forward = getattr(function, "forward", None)
    return forward is not None and tuple(inspect.signature(forward).parameters)[1:] == PARAMETERS


class TiledHead:
    """A stand-in for TRL's autograd function, which it calls in rare cases.

    Arguments:
        function: TRL's function.
    """

    def __init__(self, function: Any) -> None:
        self.function = function

    def apply(
        self,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        temperature: float,
        chunk_size: int,
        softcap: float | None = None,
        scale: float = 1.0,
        outputs: tuple[str, ...] = (),
    ) -> Statistics:
        """Computes the statistics that ``outputs`` names, as TRL's function does.

        Only the log-probabilities have a gradient. A token as likely as the likeliest counts as the
        likeliest.
        """
        dtypes = {tensor.dtype for tensor in (hidden, weight, bias) if tensor is not None}
        reduced = torch.finfo(hidden.dtype).bits < 32 or torch.is_autocast_enabled("cpu")
        rare = softcap is not None or "log_sum_sq_probs" in outputs
        if reduced or rare or len(dtypes) > 1:
            options = (temperature, chunk_size, softcap, scale, outputs)
            return self.function.apply(hidden, weight, bias, targets, *options)
        factor = scale / temperature
        if factor != 1:
            hidden, bias = hidden * factor, None if bias is None else bias * factor
        log_probs, entropy, mean_logits, is_top1 = TiledLogProbs.apply(
            hidden, weight, bias, targets, bool({"entropy", "mean_logits"} & set(outputs))
        )
        named = {"entropy": entropy, "mean_logits": mean_logits, "is_top1": is_top1}
        chosen = {name: value if name in outputs else None for name, value in named.items()}
        return log_probs, chosen["entropy"], None, chosen["mean_logits"], chosen["is_top1"]


class TiledLogProbs(torch.autograd.Function):
    r"""Log-probabilities of tokens, :math:`\log p = z_t - \log \sum_v e^{z_v}`, :math:`z = Wh + b`.

    Takes the hidden states with shape (N, H), the head's weight with shape (V, H) and bias with
    shape (V) or None, the tokens with shape (N), and whether to compute the entropy of the
    predictions and the mean of the logits too. Returns the log-probabilities, and without gradient
    both of these (zero by default) and whether the token is the likeliest, each with shape (N).
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, more: bool
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        # not -inf: the difference to a tile of words that are ruled out would be NaN
        largest = hidden.new_full((len(hidden),), torch.finfo(hidden.dtype).min)
        total, weighted, plain = hidden.new_zeros(3, len(hidden))
        target = largest.clone()
        for rows, columns, logits in tiles(hidden, weight, bias):
            place = targets[rows] - columns.start
            within = (place >= 0) & (place < logits.shape[1])
            here = logits.gather(1, place.clamp(0, logits.shape[1] - 1)[:, None])[:, 0]
            target[rows] = torch.where(within, here, target[rows])
            peak = torch.maximum(largest[rows], logits.amax(dim=-1))
            shrink = (largest[rows] - peak).exp_()
            largest[rows] = peak
            if more:
                plain[rows] += logits.sum(dim=-1)
                share = (logits - peak[:, None]).exp_()
                weighted[rows] *= shrink
                weighted[rows] += torch.linalg.vecdot(share, logits)
            else:
                share = logits.sub_(peak[:, None]).exp_()
            total[rows] *= shrink
            total[rows] += share.sum(dim=-1)
        log_total = largest + total.log()
        ctx.save_for_backward(hidden, weight, bias, targets, log_total)
        entropy = log_total - weighted / total if more else weighted
        mean_logits = plain / len(weight)
        is_top1 = target >= largest
        ctx.mark_non_differentiable(entropy, mean_logits, is_top1)
        return target - log_total, entropy, mean_logits, is_top1

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, targets, log_total = ctx.saved_tensors
        for_hidden, for_weight, for_bias = (
            torch.zeros_like(value) if needed else None
            for value, needed in zip((hidden, weight, bias), ctx.needs_input_grad, strict=False)
        )
        for rows, columns, logits in tiles(hidden, weight, bias):
            # of a logit: the gradient times (1 for the token itself, else 0) - p
            share = logits.sub_(log_total[rows, None]).exp_().mul_(-gradient[rows, None])
            if for_hidden is not None:
                for_hidden[rows].addmm_(share, weight[columns])
            if for_weight is not None:
                for_weight[columns].addmm_(share.T, hidden[rows])
            if for_bias is not None:
                for_bias[columns] += share.sum(dim=0)
        if for_hidden is not None:
            for_hidden += gradient[:, None] * weight[targets]
        if for_weight is not None:
            for_weight.index_add_(0, targets, gradient[:, None] * hidden)
        if for_bias is not None:
            for_bias.index_add_(0, targets, gradient)
        return for_hidden, for_weight, for_bias, None, None


def tiles(
    hidden: Tensor, weight: Tensor, bias: Tensor | None
) -> Iterator[tuple[slice, slice, Tensor]]:
    """Yields the tokens and words of each tile and their logits, which the next tile overwrites."""
    buffer = hidden.new_empty(ROWS * COLUMNS)
    for row in range(0, len(hidden), ROWS):
        rows = slice(row, min(row + ROWS, len(hidden)))
        for column in range(0, len(weight), COLUMNS):
            columns = slice(column, min(column + COLUMNS, len(weight)))
            shape = rows.stop - row, columns.stop - column
            logits = torch.mm(
                hidden[rows], weight[columns].T, out=buffer[: shape[0] * shape[1]].view(shape)
            )
            if bias is not None:
                logits += bias[columns]
            yield rows, columns, logits
