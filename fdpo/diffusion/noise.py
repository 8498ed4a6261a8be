r"""Noising processes (DDPM and flow matching), prediction targets and sampling.

A process mixes an image :math:`x` with standard normal noise :math:`\epsilon`,

.. math:: x_t = a_t x + b_t \epsilon,

and the model predicts a target from :math:`(x_t, t)`: :math:`\epsilon`, or
:math:`v = a_t \epsilon - b_t x` (DDPM), or :math:`v = \epsilon - x` (flow matching). With the mean
squared error over all :math:`D` entries of an image,

.. math:: e(x, t, \epsilon) = \tfrac{1}{D} \lVert \text{prediction} - \text{target} \rVert^2,

the log-ratio of a policy to its reference on that image is estimated by

.. math:: \hat\ell = -\kappa\,(e_\theta - e_\text{ref}), \qquad \kappa = D\,T w_t,

where :math:`T w_t` (:meth:`NoiseProcess.path_weights`) is the weight of the squared error in the
likelihood of a path, in nats. By convention :math:`\kappa` is a constant instead.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

if TYPE_CHECKING:  # importing diffusers takes seconds
    from diffusers import DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler

STEPS = 20
"""The default number of model evaluations per sample."""

Model = Callable[[Tensor, Tensor], Tensor]
"""(x_t with shape :math:`(B, *)`, times in the model's units, shape (B)) -> prediction, as x_t."""


def errors(prediction: Tensor, target: Tensor) -> Tensor:
    """Returns the mean squared error of each example over its entries, with shape (B).

    Half precision is computed in fp32, because it cannot resolve the difference of two errors.

    Arguments:
        prediction: The predictions, with shape :math:`(B, *)`.
        target: The targets, with the same shape.
    """
    return (_full(prediction) - _full(target)).square().flatten(1).mean(1)


def log_ratios(errors: Tensor, reference_errors: Tensor, kappa: float | Tensor) -> Tensor:
    r"""Returns :math:`\hat\ell = -\kappa (e_\theta - e_\text{ref})`, in nats.

    Arguments:
        errors: The policy's errors :math:`e_\theta`, with any shape.
        reference_errors: The reference's errors at the same :math:`(x_t, t)`, with the same shape.
        kappa: :math:`\kappa > 0`, a scalar or one value per error.
    """
    return -kappa * (_full(errors) - _full(reference_errors))


class NoiseProcess(ABC):
    """A noising process (see the module); :class:`DDPM` and :class:`Flow` implement it."""

    @abstractmethod
    def draw_times(self, n: int, generator: torch.Generator) -> Tensor:
        """Samples ``n`` times from the training distribution, with shape (n), on the CPU."""

    def uniform_times(self, n: int, generator: torch.Generator) -> Tensor:
        """Samples ``n`` times uniformly, as a path passes through them, with shape (n)."""
        return self.draw_times(n, generator)

    @abstractmethod
    def coefficients(self, times: Tensor) -> tuple[Tensor, Tensor]:
        """Returns :math:`a_t` and :math:`b_t`, each with the shape of ``times``."""

    @abstractmethod
    def target(self, x: Tensor, noise: Tensor, times: Tensor) -> Tensor:
        """Returns the target of the prediction, with the shape of ``x``, :math:`(B, *)`."""

    @abstractmethod
    def path_weights(self, times: Tensor) -> Tensor:
        """Returns :math:`T w_t`, nats per unit of squared error of the target, like ``times``."""

    @abstractmethod
    def model_times(self, times: Tensor) -> Tensor:
        """Returns the times in the units of the model's argument."""

    @abstractmethod
    def scheduler(self) -> Any:
        """Returns the diffusers scheduler that describes the process and is saved with a model."""

    @abstractmethod
    def _solver(self) -> DPMSolverMultistepScheduler: ...

    def noised(self, x: Tensor, noise: Tensor, times: Tensor) -> Tensor:
        """Returns :math:`x_t`, with the shape of ``x``, for times with shape (B)."""
        a, b = (_like(c, x) for c in self.coefficients(times))
        return a * x + b * noise

    @torch.no_grad()
    def sample(self, model: Model, noise: Tensor, steps: int = STEPS) -> Tensor:
        """Samples images in :math:`[-1, 1]` from noise, with shape :math:`(B, *)`, alone.

        The solver is DPM-Solver++ of second order, which needs half the steps of DDIM or Euler's
        method. (Lu et al., 2022, https://arxiv.org/abs/2211.01095)

        Arguments:
            model: The model.
            noise: Standard normal noise; the same noise gives the same images.
            steps: The number of model evaluations.
        """
        solver = self._solver()
        solver.set_timesteps(steps)
        x = noise
        for t in solver.timesteps:
            prediction = model(x, t.to(x.device).expand(len(x)))
            x = solver.step(prediction.float(), t, x).prev_sample
        return x.clamp(-1, 1)


def _default_schedule() -> Any:
    from diffusers import DDPMScheduler

    return DDPMScheduler(timestep_spacing="trailing")


@dataclass(frozen=True, eq=False)
class DDPM(NoiseProcess):
    r"""Denoising diffusion in :math:`T` steps, :math:`a_t^2 = \bar\alpha_t = 1 - b_t^2`.

    With the reverse steps' variance :math:`\sigma_t^2 = \beta_t`, the weight of the squared error
    of :math:`\epsilon` is :math:`w_t = \beta_t / (2 \alpha_t (1 - \bar\alpha_t))` nats. The weight
    of the squared error of :math:`v` is :math:`\bar\alpha_t w_t`, because
    :math:`\lVert\Delta\epsilon\rVert^2 = \bar\alpha_t \lVert\Delta v\rVert^2`. (Ho et al., 2020,
    https://arxiv.org/abs/2006.11239; Salimans & Ho, 2022, https://arxiv.org/abs/2202.00512)

    Arguments:
        schedule: Any diffusers noise scheduler with :math:`\beta_t`; its ``prediction_type`` is
            ``epsilon`` or ``v_prediction``.

    Raises:
        ValueError: If the scheduler has no betas or another prediction type.
    """

    schedule: Any = field(default_factory=_default_schedule)

    def __post_init__(self) -> None:
        if not hasattr(self.schedule, "betas"):
            raise ValueError(f"{type(self.schedule).__name__} has no betas: no diffusion")
        if self.prediction not in ("epsilon", "v_prediction"):
            raise ValueError(
                f"{type(self.schedule).__name__} says that the model predicts {self.prediction!r}; "
                "choose epsilon or v_prediction"
            )

    @property
    def prediction(self) -> str:
        """The prediction type of the model: ``epsilon`` or ``v_prediction``."""
        return self.schedule.config["prediction_type"]

    @property
    def betas(self) -> Tensor:
        r""":math:`\beta_t` in float64, with shape (T)."""
        return self.schedule.betas.double()

    def draw_times(self, n: int, generator: torch.Generator) -> Tensor:
        return torch.randint(len(self.betas), (n,), generator=generator)

    def coefficients(self, times: Tensor) -> tuple[Tensor, Tensor]:
        alpha_bar = self._alpha_bar(times)
        return alpha_bar.sqrt(), (1 - alpha_bar).sqrt()

    def target(self, x: Tensor, noise: Tensor, times: Tensor) -> Tensor:
        if self.prediction == "epsilon":
            return noise
        a, b = (_like(c, x) for c in self.coefficients(times))
        return a * noise - b * x

    def path_weights(self, times: Tensor) -> Tensor:
        beta, alpha_bar = self.betas.to(times.device)[times], self._alpha_bar(times)
        weights = beta / (2 * (1 - beta) * (1 - alpha_bar))
        if self.prediction == "v_prediction":
            weights = weights * alpha_bar
        return len(self.betas) * weights

    def model_times(self, times: Tensor) -> Tensor:
        return times

    def scheduler(self) -> Any:
        return self.schedule

    def _alpha_bar(self, times: Tensor) -> Tensor:
        r"""Returns :math:`\bar\alpha_t` in float64."""
        return (1 - self.betas).cumprod(0).to(times.device)[times]

    def _solver(self) -> DPMSolverMultistepScheduler:
        from diffusers import DPMSolverMultistepScheduler

        return DPMSolverMultistepScheduler.from_config(
            self.schedule.config, timestep_spacing="trailing"
        )


@dataclass(frozen=True)
class Flow(NoiseProcess):
    r"""Flow matching on straight lines, :math:`a_t = 1 - t`, :math:`b_t = t`, :math:`0 < t < 1`.

    The error of the image is :math:`t` times the error of :math:`v`, and the signal-to-noise ratio
    is :math:`(1-t)^2/t^2`. The weight of the squared error of :math:`v` in the variational bound of
    the equivalent diffusion is therefore :math:`w_t = (1-t)/t` nats. (Lipman et al., 2023,
    https://arxiv.org/abs/2210.02747; Kingma & Gao, 2023, https://arxiv.org/abs/2303.00848)

    Arguments:
        times: The training distribution of :math:`t`: ``uniform``, or ``logit_normal``, the
            logistic function of a standard normal sample (Esser et al., 2024,
            https://arxiv.org/abs/2403.03206).
    """

    times: Literal["uniform", "logit_normal"] = "uniform"

    UNITS = 1000  # models take 1000 t, as in diffusers
    LEAST = 1e-3  # the smallest t and 1 - t

    def __post_init__(self) -> None:
        if self.times not in ("uniform", "logit_normal"):
            raise ValueError(f"times {self.times!r}: choose uniform or logit_normal")

    def draw_times(self, n: int, generator: torch.Generator) -> Tensor:
        if self.times == "uniform":
            t = torch.rand(n, generator=generator)
        else:
            t = torch.randn(n, generator=generator).sigmoid()
        return t.clamp(self.LEAST, 1 - self.LEAST)

    def uniform_times(self, n: int, generator: torch.Generator) -> Tensor:
        return Flow("uniform").draw_times(n, generator)

    def coefficients(self, times: Tensor) -> tuple[Tensor, Tensor]:
        return 1 - times, times

    def target(self, x: Tensor, noise: Tensor, times: Tensor) -> Tensor:
        return noise - x

    def path_weights(self, times: Tensor) -> Tensor:
        return (1 - times) / times

    def model_times(self, times: Tensor) -> Tensor:
        return self.UNITS * times

    def scheduler(self) -> FlowMatchEulerDiscreteScheduler:
        from diffusers import FlowMatchEulerDiscreteScheduler

        return FlowMatchEulerDiscreteScheduler(num_train_timesteps=self.UNITS)

    def _solver(self) -> DPMSolverMultistepScheduler:
        from diffusers import DPMSolverMultistepScheduler

        return DPMSolverMultistepScheduler(
            num_train_timesteps=self.UNITS, prediction_type="flow_prediction", use_flow_sigmas=True
        )


def process_from_scheduler(scheduler: Any) -> NoiseProcess:
    """Returns the process that a diffusers scheduler describes.

    Raises:
        ValueError: If the scheduler has no betas, or its model predicts another target.
    """
    from diffusers import FlowMatchEulerDiscreteScheduler

    return Flow() if isinstance(scheduler, FlowMatchEulerDiscreteScheduler) else DDPM(scheduler)


def _like(values: Tensor, x: Tensor) -> Tensor:
    """Returns values with shape (B) in a shape that broadcasts with x, :math:`(B, *)`."""
    return values.to(x.dtype).view(-1, *[1] * (x.dim() - 1))


def _full(values: Tensor) -> Tensor:
    return values if values.dtype == torch.float64 else values.float()
