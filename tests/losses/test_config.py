"""Options of a loss: what they choose, how a run's record gives them back, wrong values."""

import math
from dataclasses import dataclass

import pytest
import torch

from fdpo import fdpo_loss, get_divergence
from fdpo.losses.config import LossConfig, with_default


def test_defaults_are_plain_dpo() -> None:
    assert LossConfig().resolve() == (get_divergence("reverse_kl"), "logistic")


def test_options_choose_divergence_and_preference_loss() -> None:
    alpha, skew = get_divergence("alpha", alpha=0.3), get_divergence("skew_js", t=0.2)
    assert LossConfig(loss="alpha", alpha=0.3).resolve() == (alpha, "logistic")
    assert LossConfig(loss="alpha", loss_args={"alpha": 0.3}).resolve() == (alpha, "logistic")
    assert LossConfig(loss="skew_js", loss_args='{"t": 0.2}').resolve() == (skew, "logistic")
    assert LossConfig(loss="hinge").resolve()[1] == "hinge"
    assert LossConfig(loss="hinge", preference="savage").resolve()[1] == "savage"


@pytest.mark.parametrize(
    ("options", "failure"),
    [
        ({"loss": "kl"}, "unknown loss 'kl'"),
        ({"alpha": 0.3, "loss_args": {"alpha": 0.5}}, "--alpha 0.3: --loss_args .* holds alpha"),
        ({"preference": "sigmoid"}, "--preference 'sigmoid': choose from logistic, robust, hinge"),
        ({"beta": 0.0}, "--beta must be a finite number above 0, got 0.0"),
        ({"beta": math.nan}, "--beta must be a finite number above 0, got nan"),
        ({"label_smoothing": 0.5}, r"--label_smoothing must lie in \[0, 0.5\), got 0.5"),
        ({"tail": 0.0}, r"--tail must be above 0 \(inf or None turns it off\), got 0.0"),
        ({"loser_gradient": 1.5}, r"--loser_gradient must lie in \[0, 1\], got 1.5"),
    ],
)
def test_wrong_options(options: dict, failure: str) -> None:
    with pytest.raises(ValueError, match=failure):
        LossConfig(**options).check_loss()


def test_options_reach_the_loss() -> None:
    config = LossConfig(
        loss="fkl", beta=0.3, label_smoothing=0.1, tail=2.0, match_curvature=True,
        loser_gradient=0.5, preference="hinge",
    )  # fmt: skip
    config.check_loss()
    chosen, rejected = torch.tensor([0.5, -4.0]), torch.tensor([-0.5, 1.0], requires_grad=True)
    config_losses = config.pair_losses(chosen, rejected, *config.resolve()).losses
    losses = fdpo_loss(
        chosen, rejected, get_divergence("forward_kl"), beta=0.3, preference="hinge",
        label_smoothing=0.1, tail=2.0, match_curvature=True, loser_gradient=0.5,
    ).losses  # fmt: skip
    assert torch.equal(config_losses, losses)
    gradients = [torch.autograd.grad(each.sum(), rejected) for each in (config_losses, losses)]
    assert torch.equal(gradients[0][0], gradients[1][0])


def test_loss_of_a_recorded_run() -> None:
    options = {"loss": "alpha", "alpha": 0.3, "beta": 0.2, "learning_rate": 1e-4}
    assert LossConfig.from_run(options) == LossConfig(loss="alpha", alpha=0.3, beta=0.2)
    assert LossConfig.from_run({"learning_rate": 1e-4}) is None


def test_inherited_field_with_another_default() -> None:
    @dataclass
    class Config(LossConfig):
        beta: float = with_default(LossConfig, "beta", 0.5)

    assert Config().beta == 0.5 and LossConfig().beta == 0.1
    both = (config.__dataclass_fields__["beta"].metadata for config in (Config, LossConfig))
    assert next(both) == next(both)
