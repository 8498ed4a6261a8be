"""Sums of log-probabilities over completions."""

import torch

from fdpo.llm.forward import sum_by_completion


def test_sums_of_long_completions_are_off_by_their_rounding_only() -> None:
    lengths = torch.tensor([1, 700, 256, 3])
    values = -11 * torch.rand(1, int(lengths.sum()), generator=torch.Generator().manual_seed(0))
    total = sum_by_completion(values, lengths)
    exact = torch.stack([each.double().sum() for each in values[0].split(lengths.tolist())])
    assert torch.equal(total, exact.float())
    one_by_one = torch.segment_reduce(values[0], "sum", lengths=lengths)
    assert not torch.equal(one_by_one, total)  # the sums in fp32


def test_gradient_of_a_sum_is_that_of_each_value() -> None:
    values = torch.randn(1, 6, requires_grad=True)
    total = sum_by_completion(values, torch.tensor([2, 1, 3]))
    (gradient,) = torch.autograd.grad(total, values, torch.tensor([1.0, 2.0, -3.0]))
    assert gradient.tolist() == [[1, 1, 2, -3, -3, -3]]
