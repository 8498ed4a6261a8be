"""Sums of log-probabilities over completions."""

import torch

from fdpo.llm.forward import sums


def test_sums_of_long_completions_are_off_by_their_rounding_only() -> None:
    sizes = torch.tensor([1, 700, 256, 3])
    values = -11 * torch.rand(1, int(sizes.sum()), generator=torch.Generator().manual_seed(0))
    found = sums(values, sizes)
    exact = torch.stack([each.double().sum() for each in values[0].split(sizes.tolist())])
    assert torch.equal(found, exact.float())
    one_by_one = torch.segment_reduce(values[0], "sum", lengths=sizes)
    assert not torch.equal(one_by_one, found)  # what fp32 alone would make of them


def test_gradient_of_a_sum_is_that_of_each_value() -> None:
    values = torch.randn(1, 6, requires_grad=True)
    found = sums(values, torch.tensor([2, 1, 3]))
    (gradient,) = torch.autograd.grad(found, values, torch.tensor([1.0, 2.0, -3.0]))
    assert gradient.tolist() == [[1, 1, 2, -3, -3, -3]]
