"""The loss of a batch against formulas."""

from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid, mse_loss

from fdpo.diffusion.dataset import ImagePairBatch
from fdpo.diffusion.loss import noise_sides, pair_losses
from tests.diffusion.tiny import MakeTrainer, get_batch, perturb


@pytest.mark.parametrize("flow", [False, True], ids=["ddpm", "flow"])
def test_reverse_kl_is_diffusion_dpo_to_the_gradient(make_trainer: MakeTrainer, flow: bool) -> None:
    trainer = make_trainer(flow, kappa=2500.0, beta=1.0, loss="sigmoid")
    perturb(trainer)
    batch = get_batch(trainer)
    trainer.compute_loss(batch)[0].backward()
    ours = [p.grad.clone() for p in trainer.policy.parameters() if p.grad is not None]
    trainer.policy.zero_grad()

    def error(model: nn.Module, x: Tensor) -> Tensor:
        times, noise = batch["times"][:, 0], batch["noise"][:, 0]
        x_t = trainer.process.noised(x, noise, times)
        target = trainer.process.target(x, noise, times)
        prediction = model(x_t, trainer.process.model_times(times)).sample
        return (prediction - target).square().mean(dim=(1, 2, 3))

    policy = error(trainer.policy, batch["chosen"]) - error(trainer.policy, batch["rejected"])
    assert trainer.reference is not None
    reference = trainer.reference.model
    with torch.no_grad():
        base = error(reference, batch["chosen"]) - error(reference, batch["rejected"])
    published = -logsigmoid(-0.5 * 5000 * (policy - base)).mean()
    assert trainer.compute_loss(batch)[0].item() == pytest.approx(published.item(), rel=1e-4)
    published.backward()
    theirs = [p.grad for p in trainer.policy.parameters() if p.grad is not None]
    rounding = 1e-5 * max(gradient.abs().max().item() for gradient in theirs)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=rounding)


@pytest.mark.parametrize("loss", ["sigmoid", "jsd", "alpha", "chi2_kl"])
def test_swapping_the_sides_negates_the_margin(make_trainer: MakeTrainer, loss: str) -> None:
    alpha = 0.5 if loss == "alpha" else None
    trainer = make_trainer(loss=loss, alpha=alpha, timesteps_per_pair=3)
    perturb(trainer)
    batch = get_batch(trainer)
    swapped = {**batch, "chosen": batch["rejected"], "rejected": batch["chosen"]}
    margin = trainer.compute_loss(batch)[1]["rewards/margins"]
    other = trainer.compute_loss(swapped)[1]["rewards/margins"]
    assert margin.abs().min() > 0
    torch.testing.assert_close(other, -margin, rtol=1e-4, atol=1e-6)


def test_both_sides_share_times_and_noise(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(flow=True, timesteps_per_pair=3)
    batch = cast(ImagePairBatch, get_batch(trainer))
    inputs = noise_sides(batch, trainer.process)
    assert len(inputs.x_t) == 2 * 4 * 3 and inputs.conditions == {}
    # With x_t = (1 - t) x + t noise and the target noise - x:
    x = inputs.x_t - (inputs.times / 1000).view(-1, 1, 1, 1) * inputs.target
    noise = (inputs.target + x).flatten(1)
    for values in (inputs.times.view(-1, 1), noise):
        first, second = values.chunk(2)
        torch.testing.assert_close(first, second, rtol=1e-5, atol=1e-5)
        assert len(first.unique(dim=0)) == 12
    images = torch.cat([batch["chosen"], batch["rejected"]]).repeat_interleave(3, 0)
    torch.testing.assert_close(x, images, rtol=1e-5, atol=1e-5)


def test_conditions_follow_their_images(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(timesteps_per_pair=2)
    side = {"text": torch.arange(4), "added": {"size": torch.arange(4).view(4, 1)}}
    other = {"text": torch.arange(4, 8), "added": {"size": torch.arange(4, 8).view(4, 1)}}
    batch: Any = {**get_batch(trainer), "conditions": {"chosen": side, "rejected": other}}
    conditions = noise_sides(batch, trainer.process).conditions
    expected = torch.arange(8).repeat_interleave(2)
    assert torch.equal(conditions["text"], expected)
    assert torch.equal(conditions["added"]["size"][:, 0], expected)


def test_the_terms_of_the_loss(make_trainer: MakeTrainer) -> None:
    """Each weight adds its term; a loser's error counts up to its bound."""
    mixed = make_trainer(dpo_weight=0.1, sft_weight=1.0, negative_sft_weight=0.5)
    perturb(mixed)
    batch = get_batch(mixed)
    loss, metrics = mixed.compute_loss(batch)
    chosen, rejected = metrics["errors/chosen"], metrics["errors/rejected"]
    bounded = torch.minimum(rejected, 2 * metrics["base_errors/rejected"])
    preference = -logsigmoid(metrics["rewards/margins"])
    expected = 0.1 * preference + chosen + 0.5 * (chosen - bounded)
    torch.testing.assert_close(metrics["loss"], expected, rtol=1e-5, atol=1e-6)
    assert loss.item() == pytest.approx(expected.mean().item(), rel=1e-5)
    supervised = make_trainer(method="sft")
    loss, metrics = supervised.compute_loss(batch)
    assert set(metrics) == {"loss", "errors/chosen"} and supervised.reference is None
    times, noise = batch["times"][:, 0], batch["noise"][:, 0]
    x_t = supervised.process.noised(batch["chosen"], noise, times)
    prediction = supervised.policy(x_t, times).sample
    assert loss.item() == pytest.approx(mse_loss(prediction, noise).item())


def test_log_ratios_are_means_over_samples(make_trainer: MakeTrainer) -> None:
    """The link and the loss see the mean of kappa times the differences of errors."""
    trainer = make_trainer(loss="jsd", kappa=3.0)
    generator = torch.Generator().manual_seed(0)
    errors, reference = torch.rand(2, 2, 5, 4, generator=generator).unbind()
    losses, metrics = pair_losses(
        errors, reference, 3.0, trainer.config, divergence=trainer.divergence, preference="logistic"
    )
    ratios = -3 * (errors - reference).mean(2)
    torch.testing.assert_close(metrics["log_ratios/chosen"], ratios[0])
    torch.testing.assert_close(metrics["log_ratios/rejected"], ratios[1])
    expected = trainer.config.pair_losses(ratios[0], ratios[1], trainer.divergence, "logistic")
    torch.testing.assert_close(losses, expected.losses)
    assert all(values.shape == (5,) and not values.requires_grad for values in metrics.values())


def test_a_bounded_loser_gives_no_gradient(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(method="negative_sft", negative_sft_bound=0.5)
    batch = get_batch(trainer)
    assert (batch["chosen"] != batch["rejected"]).any()
    trainer.compute_loss(batch)[0].backward()
    bounded = [p.grad.clone() for p in trainer.policy.parameters() if p.grad is not None]
    supervised = make_trainer(method="sft")
    supervised.compute_loss(batch)[0].backward()
    alone = [p.grad for p in supervised.policy.parameters() if p.grad is not None]
    for mine, other in zip(bounded, alone, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-6)


def test_the_true_weight_is_that_of_the_path(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(true_weight=True, max_kappa=2000.0)
    perturb(trainer)
    batch = get_batch(trainer)
    metrics = trainer.compute_loss(batch)[1]
    kappa = (64 * trainer.process.path_weights(batch["times"][:, 0])).clamp(max=2000).float()
    assert kappa.min() < 2000
    expected = -kappa * (metrics["errors/chosen"] - metrics["base_errors/chosen"])
    torch.testing.assert_close(metrics["log_ratios/chosen"], expected, rtol=1e-4, atol=1e-4)
