r"""The optimum of preference optimisation where it can be written down: a table of responses.

Among all policies the one with the largest :math:`E_\pi[r] - \beta D_f(\pi \| \pi_\text{ref})` is

.. math::
    \pi(y) = \pi_\text{ref}(y) \exp\!\big(g^{-1}((r(y) - \lambda)/\beta)\big)

with the one :math:`\lambda` that makes it sum to 1. It is what a language model trained with f-DPO
goes towards, and shows without noise how divergences differ.
(Wang et al., 2023, https://arxiv.org/abs/2309.16240, theorem 1)
"""

from __future__ import annotations

import torch
from torch import Tensor

from fdpo.divergences.base import Divergence

HALVINGS = 70  # to the last digit of float64


def optimal_policy(
    divergence: Divergence, reference: Tensor, rewards: Tensor, beta: float | Tensor
) -> Tensor:
    """Computes the policy with the largest reward less ``beta`` times the divergence, in float64.

    Arguments:
        divergence: The divergence.
        reference: The probabilities of the reference, positive, with shape (*, K).
        rewards: The rewards, with shape (*, K).
        beta: The strength, above 0, a number or of shape (*).

    Returns:
        Probabilities, with shape (*, K).

    Raises:
        ValueError: If a probability or beta is not above 0, or a reference does not sum to 1.
    """
    reference, rewards = reference.double(), rewards.double()
    strength = torch.as_tensor(beta, dtype=torch.float64, device=reference.device)[..., None]
    if not (reference > 0).all() or not (strength > 0).all():
        raise ValueError("the reference's probabilities and beta must be above 0")
    total = reference.sum(dim=-1)
    if not torch.allclose(total, torch.ones_like(total)):
        raise ValueError(f"the reference's probabilities must sum to 1, got {total.tolist()}")

    def policy(multiplier: Tensor) -> Tensor:
        return reference * divergence.inverse_link((rewards - multiplier) / strength).exp()

    # At the least reward every ratio is at least 1, at the largest at most 1.
    shape = torch.broadcast_shapes(reference.shape, rewards.shape, strength.shape)
    low = rewards.amin(dim=-1, keepdim=True).expand(*shape[:-1], 1)
    high = rewards.amax(dim=-1, keepdim=True).expand(*shape[:-1], 1)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        too_much = policy(middle).sum(dim=-1, keepdim=True) > 1
        low, high = torch.where(too_much, middle, low), torch.where(too_much, high, middle)
    found = policy(high)
    return found / found.sum(dim=-1, keepdim=True)
