r"""The f-DPO loss of a batch of image pairs.

Each pair has S times and noises. A model predicts the targets of both sides, its mean squared
errors have the shape (2, B, S), and the mean over S of :math:`-\kappa (e_\theta - e_\text{ref})` is
the log-ratio :math:`\hat\ell` of a side (:mod:`fdpo.diffusion.noise`). With several samples this
approaches the log-ratio of whole paths; at a single time a link other than the reverse KL's is a
surrogate for each step. (Wallace et al., 2024, https://arxiv.org/abs/2311.12908)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fdpo.diffusion.config import DiffusionConfig
from fdpo.diffusion.dataset import ImagePairBatch
from fdpo.diffusion.noise import NoiseProcess, log_ratios
from fdpo.divergences.base import Divergence
from fdpo.preferences.pairs import SIDES, Side

Metrics = dict[str, Tensor]
"""Metrics of each pair by name, with shape (B)."""


@dataclass(frozen=True)
class NoisedSides:
    """The noised images of a batch, chosen before rejected, as a model takes them.

    N is the number of sides times B times S.

    Attributes:
        x_t: The noised images, with shape (N, C, H, W).
        times: The times in the model's units, with shape (N).
        target: The targets of the prediction, with shape (N, C, H, W).
        conditions: The further arguments of the model by name.
    """

    x_t: Tensor
    times: Tensor
    target: Tensor
    conditions: Mapping[str, Any]


def noise_sides(
    batch: ImagePairBatch, process: NoiseProcess, sides: Sequence[Side] = SIDES
) -> NoisedSides:
    """Noises the sides of a batch, which share times and noise, and stacks them.

    Arguments:
        batch: The batch.
        process: The noising process.
        sides: The sides that the loss needs.
    """
    samples = batch["times"].shape[1]
    x = torch.cat([batch[side] for side in sides]).repeat_interleave(samples, 0)
    times = batch["times"].flatten().repeat(len(sides))
    noise = torch.cat([batch["noise"].flatten(0, 1)] * len(sides))
    conditions = batch.get("conditions")
    return NoisedSides(
        x_t=process.noised(x, noise, times),
        times=process.model_times(times),
        target=process.target(x, noise, times),
        conditions=_stacked([conditions[side] for side in sides], samples) if conditions else {},
    )


def get_kappa(
    config: DiffusionConfig, process: NoiseProcess, batch: ImagePairBatch
) -> float | Tensor:
    r"""Returns :math:`\kappa`, a constant or with shape (B, S)."""
    if config.true_weight:
        dims = batch["chosen"][0].numel()
        kappa = dims * process.path_weights(batch["times"])
        return kappa.clamp(max=config.max_kappa).float()
    assert config.kappa is not None
    return config.kappa


def pair_losses(
    errors: Tensor,
    reference_errors: Tensor | None,
    kappa: float | Tensor,
    config: DiffusionConfig,
    *,
    divergence: Divergence,
    preference: str,
) -> tuple[Tensor, Metrics]:
    """Computes the loss of each pair, as :class:`~fdpo.diffusion.DiffusionConfig` defines it.

    Arguments:
        errors: The policy's errors, with shape (sides, B, S), chosen first.
        reference_errors: The reference's errors, with the same shape; ``None`` for a loss that does
            not compare.
        kappa: The scale of the log-ratios (:func:`get_kappa`).
        config: The weights of the terms and the options of the f-DPO loss.
        divergence: The divergence that ``config`` names.
        preference: The preference loss that ``config`` names.

    Returns:
        The losses, with shape (B), and the metrics, detached: the loss; errors, reference errors
        and log-ratios of both sides; margins; accuracies, where a tie counts half; and the
        ``tail_fraction``.
    """
    dpo, sft, negative = config.weights()
    losses = (sft + negative) * errors[0].mean(1)
    metrics = {f"errors/{SIDES[i]}": error.mean(1).detach() for i, error in enumerate(errors)}
    if reference_errors is not None:
        base_chosen, base_rejected = reference_errors.mean(2)
        bound = config.negative_sft_bound * base_rejected
        losses = losses - negative * torch.minimum(errors[1].mean(1), bound)
        chosen, rejected = log_ratios(errors, reference_errors, kappa).mean(2)
        fdpo = config.pair_losses(chosen, rejected, divergence, preference)
        losses = losses + dpo * fdpo.losses
        metrics |= {
            "base_errors/chosen": base_chosen,
            "base_errors/rejected": base_rejected,
            "log_ratios/chosen": chosen.detach(),
            "log_ratios/rejected": rejected.detach(),
            "rewards/margins": fdpo.margins,
            "rewards/accuracies": (fdpo.margins.sign() + 1) / 2,
            "tail_fraction": fdpo.in_tail.float(),
        }
    return losses, {"loss": losses.detach(), **metrics}


def _stacked(sides: Sequence[Any], samples: int) -> Any:
    """Stacks the conditions of the sides in the order of the images; mappings are nested."""
    if isinstance(sides[0], Mapping):
        return {name: _stacked([side[name] for side in sides], samples) for name in sides[0]}
    return torch.cat(list(sides)).repeat_interleave(samples, 0)
