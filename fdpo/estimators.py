r"""Divergences and diversity from samples, each with its standard error.

With :math:`\ell = \log \pi/\pi_\text{ref}` of whole completions, from samples of :math:`\pi` itself
(temperature 1, nothing filtered) or of :math:`\pi_\text{ref}`:

.. math::
    D_\text{RKL} = E_\pi[\ell], \qquad
    D_\text{JS} = E_\pi[\log 2 + \log\sigma(\ell)] + E_\text{ref}[\log 2 + \log\sigma(-\ell)]

(twice the textbook Jensen-Shannon divergence, as everywhere in fdpo). Several samples of one prompt
are not independent: values come with shape :math:`(P, S)`, prompts by samples, and standard errors
are those of the mean over prompts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


class Estimate(NamedTuple):
    """A mean and its standard error, in the unit of what was averaged."""

    value: float
    error: float


def mean(values: Tensor) -> Estimate:
    """Estimates a mean from values of shape :math:`(P, S)` or :math:`(P)`; prompts are clusters.

    The error is NaN where there is a single prompt.
    """
    per_prompt = values.double().reshape(len(values), -1).mean(dim=1)
    if len(per_prompt) < 2:
        return Estimate(per_prompt.mean().item(), math.nan)
    error = per_prompt.std() / math.sqrt(len(per_prompt))
    return Estimate(per_prompt.mean().item(), error.item())


def reverse_kl(policy_log_ratios: Tensor) -> Estimate:
    r"""Estimates :math:`KL(\pi \| \pi_\text{ref})`, in nats, from the policy's own samples.

    Arguments:
        policy_log_ratios: :math:`\ell` of samples of the policy, with shape :math:`(P, S)`.
    """
    return mean(policy_log_ratios)


def jensen_shannon(policy_log_ratios: Tensor, reference_log_ratios: Tensor) -> Estimate:
    r"""Estimates twice the Jensen-Shannon divergence, in nats: between 0 and :math:`2\log 2`.

    Arguments:
        policy_log_ratios: :math:`\ell` of samples of the policy, with shape :math:`(P, S)`.
        reference_log_ratios: :math:`\ell` of samples of the reference, for the same prompts, with
            shape :math:`(P, S)`.
    """
    policy = math.log(2) + logsigmoid(policy_log_ratios.double())
    reference = math.log(2) + logsigmoid(-reference_log_ratios.double())
    return mean(policy.mean(dim=1) + reference.mean(dim=1))


def distinct_n(completions: Sequence[Sequence[str]], n: int = 2, budget: int = 20) -> Estimate:
    """Estimates the share of distinct word n-grams among the samples of a prompt.

    The share falls with length, so each completion counts with at most its first ``budget`` words.
    Prompts whose samples hold no n-gram are left out.

    Arguments:
        completions: For each prompt, its samples.
        n: The length of an n-gram, in words.
        budget: How many words of a completion count.
    """
    shares = []
    for samples in completions:
        words = [sample.lower().split()[:budget] for sample in samples]
        grams = [tuple(w[i : i + n]) for w in words for i in range(len(w) - n + 1)]
        if grams:
            shares.append(len(set(grams)) / len(grams))
    return mean(torch.tensor(shares))
