"""The tiled head: equal to its definition and to TRL's head, which it falls back to."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from trl.kernels import ChunkedLogProbFunction
from trl.trainer import utils

from fdpo.llm import chunked_head as head
from fdpo.llm.collator import PairCollator
from fdpo.llm.forward import token_log_probs
from tests.llm.architectures import SHAREABLE, make_model

OUTPUTS = ("log_probs", "entropy", "mean_logits", "is_top1")


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head, "ROWS", 4)
    monkeypatch.setattr(head, "COLUMNS", 5)


def problem(bias: bool, dtype: torch.dtype = torch.float64) -> tuple[Any, ...]:
    """Returns 9 hidden states, a head of 13 words, and tokens, of which four are the likeliest."""
    generator = torch.Generator().manual_seed(0)
    hidden, weight = (
        torch.randn(n, 3, generator=generator).to(dtype).requires_grad_() for n in (9, 13)
    )
    offset = torch.randn(13, generator=generator).to(dtype).requires_grad_() if bias else None
    logits = torch.nn.functional.linear(hidden, weight, offset)
    targets = torch.randint(13, (9,), generator=generator)
    targets[:4] = logits[:4].argmax(dim=-1)
    return hidden, weight, offset, targets


def tiled(*inputs: Any) -> tuple[Any, ...]:
    return head.TiledHead(ChunkedLogProbFunction).apply(*inputs)


def trls(*inputs: Any) -> tuple[Any, ...]:
    return ChunkedLogProbFunction.apply(*inputs)


def gradients(log_probs: Tensor, inputs: tuple[Any, ...]) -> list[Tensor]:
    """Returns the gradients of a weighted sum in those inputs that have one."""
    weights = torch.linspace(-1, 2, len(log_probs), dtype=log_probs.dtype)
    needed = [tensor for tensor in inputs if tensor is not None and tensor.requires_grad]
    return list(torch.autograd.grad(log_probs @ weights, needed))


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("factor", [1.0, 0.3])
def test_follows_its_definition(bias: bool, factor: float) -> None:
    inputs = problem(bias)
    hidden, weight, offset, targets = inputs
    statistics = tiled(*inputs, 1 / factor, 8, None, 1.0, OUTPUTS)
    logits = factor * torch.nn.functional.linear(hidden, weight, offset)
    every = logits.log_softmax(dim=-1)
    log_probs = every.gather(1, targets[:, None])[:, 0]
    torch.testing.assert_close(statistics[0], log_probs)
    torch.testing.assert_close(statistics[1], -(every.exp() * every).sum(dim=-1))
    torch.testing.assert_close(statistics[3], logits.mean(dim=-1))
    assert statistics[4].equal(logits.argmax(dim=-1) == targets)
    expected = gradients(log_probs, inputs)
    for gradient, other in zip(gradients(statistics[0], inputs), expected, strict=True):
        torch.testing.assert_close(gradient, other)


@pytest.mark.parametrize("outputs", [OUTPUTS, ("log_probs",), ("log_probs", "is_top1")])
@pytest.mark.parametrize("scale", [1.0, 0.25])
def test_equals_trls_function(outputs: tuple[str, ...], scale: float) -> None:
    inputs = problem(True, torch.float32)
    given = (0.7, 8, None, scale, outputs)
    mine, theirs = tiled(*inputs, *given), trls(*inputs, *given)
    assert [one is None for one in mine] == [one is None for one in theirs]
    for one, other in zip(mine, theirs, strict=True):
        if one is not None:
            torch.testing.assert_close(one, other)
    for one, other in zip(gradients(mine[0], inputs), gradients(theirs[0], inputs), strict=True):
        torch.testing.assert_close(one, other)


def test_gradient_only_where_it_is_needed() -> None:
    hidden, weight, _, targets = problem(False)
    log_probs = head.TiledLogProbs.apply(hidden, weight.detach(), None, targets, False)[0]
    (gradient,) = gradients(log_probs, (hidden,))
    expected = (hidden @ weight.T).log_softmax(dim=-1).gather(1, targets[:, None])[:, 0]
    torch.testing.assert_close(gradient, gradients(expected, (hidden,))[0])


def test_words_that_are_ruled_out_do_no_harm() -> None:
    hidden, weight, bias, targets = problem(True)
    bias = bias.detach().clone()
    bias[:7] = -torch.inf  # a whole tile and more
    targets = targets.clamp(min=7)
    log_probs = tiled(hidden, weight, bias, targets, 1.0, 8, None, 1.0, ("log_probs",))[0]
    expected = torch.nn.functional.linear(hidden, weight, bias).log_softmax(dim=-1)
    torch.testing.assert_close(log_probs, expected.gather(1, targets[:, None])[:, 0])


def test_no_token_is_no_error() -> None:
    hidden, weight, _, targets = problem(False)
    log_probs = tiled(hidden[:0], weight, None, targets[:0], 1.0, 8, None, 1.0, OUTPUTS)[0]
    assert gradients(log_probs, (weight,))[0].equal(torch.zeros_like(weight))


@pytest.mark.parametrize(
    "given",
    [(1.0, 8, 30.0, 1.0, OUTPUTS), (1.0, 8, None, 1.0, (*OUTPUTS, "log_sum_sq_probs"))],
    ids=["softcapping", "log_sum_sq_probs"],
)
def test_leaves_to_trl_what_is_rare(given: tuple[Any, ...]) -> None:
    inputs = problem(False, torch.float32)
    mine = tiled(*inputs, *given)
    theirs = trls(*inputs, *given)
    for one, other in zip(mine, theirs, strict=True):
        assert (one is None and other is None) or one.equal(other)


def test_leaves_mixed_dtypes_to_trl() -> None:
    hidden, weight, _, targets = problem(False, torch.float32)
    given = (targets, 1.0, 8, None, 1.0, OUTPUTS)
    mine = tiled(hidden, weight.bfloat16(), None, *given)
    assert mine[0].equal(trls(hidden, weight.bfloat16(), None, *given)[0])


def test_replaces_trls_on_a_cpu_only_and_restores_it() -> None:
    theirs = utils._ChunkedLogProbFunction
    with head.chunked_head(torch.device("cuda")):
        assert utils._ChunkedLogProbFunction is theirs
    with pytest.raises(ZeroDivisionError), head.chunked_head(torch.device("cpu")):
        assert isinstance(utils._ChunkedLogProbFunction, head.TiledHead)
        raise ZeroDivisionError
    assert utils._ChunkedLogProbFunction is theirs


class OtherSignature(ChunkedLogProbFunction):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
        raise NotImplementedError


@pytest.mark.parametrize(
    "function", [None, OtherSignature, object()], ids=["none", "other-signature", "no-function"]
)
def test_leaves_trls_head_alone_after_a_change(
    monkeypatch: pytest.MonkeyPatch, function: Any
) -> None:
    if function is None:
        monkeypatch.delattr(utils, head.PATCHED)
    else:
        monkeypatch.setattr(utils, head.PATCHED, function)
    with head.chunked_head(torch.device("cpu")):
        assert getattr(utils, head.PATCHED, None) is function
    assert getattr(utils, head.PATCHED, None) is function


def test_the_plain_head_gives_the_same_log_probabilities(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loss runs on TRL's head where the signature of its function has changed."""
    model = make_model(SHAREABLE["gpt2"])
    utils.add_fused_lm_head(model)
    pair = {"prompt_ids": [1, 2], "chosen_ids": [3, 4, 5], "rejected_ids": [6]}
    batch = PairCollator(pad_token_id=0)([pair])
    with torch.no_grad():
        tiled_head = token_log_probs(model, batch, model).log_probs
        monkeypatch.setattr(head, "PARAMETERS", ("hidden",))
        plain_head = token_log_probs(model, batch, model).log_probs
    torch.testing.assert_close(tiled_head, plain_head)
