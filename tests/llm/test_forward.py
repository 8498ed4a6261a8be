"""Sums of log-probabilities over completions, and the trial of packed rows."""

import re
from typing import Any

import torch
from transformers import FalconConfig
from trl.trainer.utils import add_fused_lm_head

from fdpo.llm.forward import packing_obstacle, sum_by_completion
from tests.llm.architectures import SHAREABLE, make_model


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


def packable(config: Any = SHAREABLE["llama"]) -> Any:
    """Returns a model with the head by which the trainer runs it, in training mode."""
    model = make_model(config)
    add_fused_lm_head(model, outputs=("log_probs", "entropy", "mean_logits", "is_top1"))
    return model.train()


def test_a_trial_that_fails_is_a_reason_not_to_share_prompts() -> None:
    alibi = FalconConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, alibi=True
    )
    assert re.match(r"a trial of it fails \(ValueError: .*\)$", packing_obstacle(packable(alibi)))
    model = packable()
    model.model.layers[1].register_forward_hook(failing)
    assert packing_obstacle(model) == "a trial of it fails (RuntimeError: no such kernel)"
    assert all(module.training for module in model.modules())


def failing(*_: object) -> None:
    """Fails as a kernel does, in several lines."""
    raise RuntimeError("no such kernel\nat line 3")


def test_a_trial_leaves_no_trace() -> None:
    """Models may change in a forward pass, and some of their parts may be in evaluation mode."""
    model = packable()
    model.model.layers[0].eval()
    model.register_buffer("calls", torch.zeros(2))

    def disturb(module: Any, *_: object) -> None:
        torch.rand(3)
        module.calls += 1
        module.lm_head.weight.data = module.lm_head.weight.data.double().float() * 1

    model.register_forward_pre_hook(disturb)
    weights = {name: value for name, value in model.named_parameters()}
    storage = {name: value.data_ptr() for name, value in weights.items()}
    modes = [module.training for module in model.modules()]
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    assert packing_obstacle(model) == ""
    assert torch.equal(torch.rand(2), expected)
    assert [module.training for module in model.modules()] == modes
    assert {name: p.data_ptr() for name, p in model.named_parameters()} == storage
    assert model.calls.tolist() == [0, 0]
