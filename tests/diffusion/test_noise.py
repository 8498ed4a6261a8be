"""Noising processes and log-ratios: closed forms, and Diffusion-DPO's published loss."""

import math
from itertools import product

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler, PNDMScheduler
from scipy.optimize import brentq
from torch import Tensor
from torch.nn.functional import logsigmoid

from fdpo import fdpo_loss, get_divergence
from fdpo.diffusion import DDPM, Flow, NoiseProcess, errors, log_ratios, process_from_scheduler

PROCESSES: dict[str, NoiseProcess] = {
    "ddpm": DDPM(),
    "ddpm-v": DDPM(DDPMScheduler(prediction_type="v_prediction", beta_schedule="scaled_linear")),
    "flow": Flow(),
    "flow-logit-normal": Flow("logit_normal"),
}
every_process = pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES)


def sample_inputs(
    process: NoiseProcess, n: int = 64, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns images, noise and times, in float64."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(n, 1, 4, 4, generator=generator, dtype=torch.float64) * 2 - 1
    noise = torch.randn(x.shape, generator=generator, dtype=torch.float64)
    times = process.draw_times(n, generator)
    return x, noise, times.double() if isinstance(process, Flow) else times


@every_process
def test_image_and_noise_follow_from_the_target(process: NoiseProcess) -> None:
    """A perfect prediction gives the image and the noise."""
    x, noise, times = sample_inputs(process)
    a, b = (c.double().view(-1, 1, 1, 1) for c in process.coefficients(times))
    x_t, target = process.noised(x, noise, times), process.target(x, noise, times)
    if isinstance(process, Flow):
        image, same_noise = x_t - b * target, x_t + a * target
    elif isinstance(process, DDPM) and process.prediction == "v_prediction":
        image, same_noise = a * x_t - b * target, b * x_t + a * target
    else:
        image, same_noise = (x_t - b * target) / a, target
    torch.testing.assert_close(image, x, rtol=0, atol=1e-9)
    torch.testing.assert_close(same_noise, noise, rtol=0, atol=1e-9)


@every_process
def test_a_perfect_model_samples_its_image(process: NoiseProcess) -> None:
    """Predictions for a single image lead to it from any noise."""
    known = torch.rand(1, 1, 4, 4, generator=torch.Generator().manual_seed(1)) * 2 - 1

    def model(x_t: Tensor, model_times: Tensor) -> Tensor:
        times = model_times / Flow.UNITS if isinstance(process, Flow) else model_times
        a, b = (c.float().view(-1, 1, 1, 1) for c in process.coefficients(times))
        return process.target(known.expand_as(x_t), (x_t - a * known) / b, times)

    noise = torch.randn(8, 1, 4, 4, generator=torch.Generator().manual_seed(2))
    samples = process.sample(model, noise, steps=20)
    torch.testing.assert_close(samples, known.expand_as(samples), rtol=0, atol=5e-3)


def test_noise_is_that_of_diffusers() -> None:
    x, noise, times = sample_inputs(DDPM())
    for prediction in ("epsilon", "v_prediction"):
        scheduler = DDPMScheduler(prediction_type=prediction)
        process = DDPM(scheduler)
        same = scheduler.add_noise(x, noise, times)
        torch.testing.assert_close(process.noised(x, noise, times), same, rtol=1e-5, atol=1e-6)
        velocity = noise if prediction == "epsilon" else scheduler.get_velocity(x, noise, times)
        torch.testing.assert_close(process.target(x, noise, times), velocity, rtol=1e-5, atol=1e-6)


def test_times_have_their_distribution() -> None:
    generator = torch.Generator().manual_seed(0)
    n = 20_000
    steps = DDPM().draw_times(n, generator)
    assert steps.min() == 0 and steps.max() == 999
    assert steps.double().mean().item() == pytest.approx(499.5, abs=4 * 1000 / math.sqrt(12 * n))
    uniform, normal = (
        process.draw_times(n, generator).double() for process in (Flow(), Flow("logit_normal"))
    )
    assert uniform.mean().item() == pytest.approx(0.5, abs=4 / math.sqrt(12 * n))
    logits = normal.logit()
    assert logits.mean().item() == pytest.approx(0, abs=4 / math.sqrt(n))
    assert logits.std().item() == pytest.approx(1, abs=4 / math.sqrt(2 * n))


def test_a_reverse_step_is_its_log_ratio() -> None:
    """log N(x; μ_θ, σ²) − log N(x; μ_ref, σ²) of a DDPM's reverse step is κ(e_ref − e_θ)."""
    process = DDPM(DDPMScheduler(num_train_timesteps=50))
    betas = process.betas
    alpha_bar = (1 - betas).cumprod(0)
    generator = torch.Generator().manual_seed(0)
    dims = 6
    x_t, x_before, *weights = (
        torch.randn(50, dims, generator=generator, dtype=torch.float64) for _ in range(4)
    )
    predictions = [w * x_t + 0.1 for w in weights]  # two linear models
    beta, alpha, left = betas[:, None], 1 - betas[:, None], 1 - alpha_bar[:, None]
    means = [(x_t - beta / left.sqrt() * p) / alpha.sqrt() for p in predictions]
    log_p = [-(x_before - mean).square().sum(1) / (2 * betas) for mean in means]
    seen = (x_t - alpha.sqrt() * x_before) * left.sqrt() / beta
    e_policy, e_reference = (errors(p, seen) for p in predictions)
    kappa = dims * process.path_weights(torch.arange(50)) / 50
    ratio = log_ratios(e_policy, e_reference, kappa)
    torch.testing.assert_close(ratio, log_p[0] - log_p[1], rtol=1e-10, atol=1e-10)


def test_path_weights_agree_between_predictions_and_processes() -> None:
    """The same error of the image has the same weight for every target."""
    times = torch.arange(1, 1000)
    scheduler = DDPMScheduler(prediction_type="v_prediction")
    noise, velocity = DDPM(), DDPM(scheduler)
    alpha_bar = (1 - noise.betas).cumprod(0)[times]
    expected = alpha_bar * noise.path_weights(times)
    torch.testing.assert_close(velocity.path_weights(times), expected)
    # Both count half the loss of signal-to-noise ratio times the image's squared error:
    # DDPM by steps, ‖Δε‖² = SNR ‖Δx‖²; the flow by the derivative, ‖Δx‖² = t² ‖Δv‖².
    t = torch.linspace(0.1, 0.9, 9, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(((1 - t) / t).square().sum(), t)
    torch.testing.assert_close(Flow().path_weights(t), -slope / 2 * t**2)
    ratios = alpha_bar / (1 - alpha_bar)
    lost = 999 * torch.log(ratios[:-1] / ratios[1:])  # of log SNR, in the time of the whole path
    late = slice(300, None)
    stepwise = noise.path_weights(times)[1:][late]
    torch.testing.assert_close(stepwise, 1000 / 999 * lost[late] / 2, rtol=0.02, atol=0)


def test_a_gaussian_policy_has_the_known_optimum() -> None:
    """N(θ, 1) against N(0, 1) under the reward ax is best at θ = a/β."""
    nodes, weights = (torch.from_numpy(v) for v in np.polynomial.hermite_e.hermegauss(64))
    weights = weights / weights.sum()
    joint = weights[:, None] * weights[None]
    for a, beta in product((0.4, -0.7), (0.5, 1.0)):
        preferred = torch.sigmoid(a * (nodes[:, None] - nodes[None]))

        def slope(value: float, preferred: Tensor = preferred, beta: float = beta) -> float:
            theta = torch.tensor(value, dtype=torch.float64, requires_grad=True)
            ratio = theta * nodes - theta.square() / 2
            chosen, rejected = ratio[:, None].expand(64, 64), ratio[None].expand(64, 64)
            pairs = fdpo_loss(chosen, rejected, get_divergence("reverse_kl"), beta=beta, tail=None)
            (2 * joint * preferred * pairs.losses).sum().backward()
            assert theta.grad is not None
            return theta.grad.item()

        assert brentq(slope, -5, 5, xtol=1e-12) == pytest.approx(a / beta, abs=1e-6)


def test_reverse_kl_is_diffusion_dpo() -> None:
    """κβ = 2500 gives the published loss, −log σ(−½ · 5000 · difference), and its gradient."""
    generator = torch.Generator().manual_seed(0)
    wins, loses, base_wins, base_loses = (
        0.05 + 0.001 * torch.randn(64, generator=generator) for _ in range(4)
    )
    sides = [wins.requires_grad_(), loses.requires_grad_()]
    published = -logsigmoid(-0.5 * 5000 * ((wins - loses) - (base_wins - base_loses)))
    gradients = torch.autograd.grad(published.mean(), sides)
    for kappa in (2500.0, 100.0):
        chosen, rejected = log_ratios(wins, base_wins, kappa), log_ratios(loses, base_loses, kappa)
        ours = fdpo_loss(chosen, rejected, get_divergence("reverse_kl"), beta=2500 / kappa).losses
        torch.testing.assert_close(ours, published, rtol=1e-5, atol=1e-6)
        for mine, other in zip(torch.autograd.grad(ours.mean(), sides), gradients, strict=True):
            torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-6)


def test_half_precision_errors_are_subtracted_in_full() -> None:
    target = torch.zeros(1, 100, dtype=torch.bfloat16)
    near, nearer = (torch.full_like(target, v) for v in (0.5, 0.498046875))
    exact = -2500 * (0.5**2 - 0.498046875**2)
    ratio = log_ratios(errors(near, target), errors(nearer, target), 2500.0)
    assert ratio.dtype == torch.float32 and ratio.item() == pytest.approx(exact, rel=1e-6)


def test_schedulers_name_their_process() -> None:
    assert isinstance(process_from_scheduler(FlowMatchEulerDiscreteScheduler()), Flow)
    process = process_from_scheduler(PNDMScheduler(beta_schedule="scaled_linear"))
    assert isinstance(process, DDPM) and process.prediction == "epsilon"
    for name, original in PROCESSES.items():
        assert type(process_from_scheduler(original.scheduler())) is type(original), name
    with pytest.raises(ValueError, match="DDPMScheduler says that the model predicts 'sample'"):
        process_from_scheduler(DDPMScheduler(prediction_type="sample"))
    with pytest.raises(ValueError, match="choose uniform or logit_normal"):
        Flow("cubic")  # type: ignore[arg-type]
