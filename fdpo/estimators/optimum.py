r"""The optimal policy of preference optimisation over a table of responses.

Of all policies, the one with the largest :math:`E_\pi[r] - \beta D_f(\pi \| \pi_\text{ref})` is

.. math::
    \pi(y) = \pi_\text{ref}(y) \exp\!\big(g^{-1}((r(y) - \lambda)/\beta)\big)

with the one :math:`\lambda` that makes it sum to 1. A language model trained with f-DPO approaches
it; over a table it shows without noise how divergences differ.
(Wang et al., 2023, https://arxiv.org/abs/2309.16240, theorem 1)
"""

from __future__ import annotations

import torch
from torch import Tensor

from fdpo.divergences.base import Divergence

HALVINGS = 70  # for the precision of float64


def optimal_policy(
    divergence: Divergence, reference: Tensor, rewards: Tensor, beta: float | Tensor
) -> Tensor:
    """Computes the policy with the largest reward less ``beta`` times the divergence, in float64.

    Arguments:
        divergence: The divergence from the reference.
        reference: The probabilities of the reference, positive, with shape :math:`(*, K)`.
        rewards: The rewards, with shape :math:`(*, K)`.
        beta: The weight of the divergence, above 0: a number or a tensor of shape :math:`(*)`.

    Returns:
        Probabilities, with shape :math:`(*, K)`.

    Raises:
        ValueError: If a probability or beta is not above 0, or a reference does not sum to 1.

    Example:
        >>> import fdpo
        >>> reference, rewards = torch.tensor([0.5, 0.5]), torch.tensor([1.0, 0.0])
        >>> optimal_policy(fdpo.get_divergence("reverse_kl"), reference, rewards, beta=1.0)
        tensor([0.7311, 0.2689], dtype=torch.float64)
    """
    reference, rewards = reference.double(), rewards.double()
    beta = torch.as_tensor(beta, dtype=torch.float64, device=reference.device)[..., None]
    if not (reference > 0).all() or not (beta > 0).all():
        raise ValueError("the reference's probabilities and beta must be above 0")
    total = reference.sum(dim=-1)
    if not torch.allclose(total, torch.ones_like(total)):
        raise ValueError(f"the reference's probabilities must sum to 1, got {total.tolist()}")

    def policy(multiplier: Tensor) -> Tensor:
        return reference * divergence.inverse_link((rewards - multiplier) / beta).exp()

    # With λ the least reward every ratio is at least 1, with λ the largest at most 1.
    shape = torch.broadcast_shapes(reference.shape, rewards.shape, beta.shape)
    low = rewards.amin(dim=-1, keepdim=True).expand(*shape[:-1], 1)
    high = rewards.amax(dim=-1, keepdim=True).expand(*shape[:-1], 1)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        too_much = policy(middle).sum(dim=-1, keepdim=True) > 1
        low, high = torch.where(too_much, middle, low), torch.where(too_much, high, middle)
    probabilities = policy(high)
    return probabilities / probabilities.sum(dim=-1, keepdim=True)
