r"""The f-DPO loss of a batch of pairs of completions.

With the log-ratios :math:`\ell(y) = \log \pi_\theta(y \mid x) - \log \pi_\text{ref}(y \mid x)` of
both sides, the loss of a pair is that of :func:`fdpo.fdpo_loss`, plus ``sft_weight`` times the
negative log-likelihood of the chosen completion per token.
"""

from __future__ import annotations

from torch import Tensor

from fdpo.divergences.base import Divergence
from fdpo.llm.config import FDPOConfig

Sides = tuple[Tensor, Tensor]
"""Values of the chosen and of the rejected completions, each with shape (B)."""
Metrics = dict[str, Tensor]
"""Metrics of each pair by name, with shape (B)."""


def pair_losses(
    log_probs: Sides,
    reference: Sides,
    num_targets: Tensor,
    args: FDPOConfig,
    *,
    divergence: Divergence,
    preference: str,
) -> tuple[Tensor, Metrics]:
    r"""Computes the losses of B pairs and their metrics.

    Arguments:
        log_probs: :math:`\log \pi_\theta(y \mid x)` of both sides, in nats.
        reference: :math:`\log \pi_\text{ref}(y \mid x)` of both sides.
        num_targets: The tokens of the chosen completions, with shape (B).
        args: The options of the loss.
        divergence: The divergence.
        preference: The preference loss.

    Returns:
        The losses, with shape (B), and the metrics by name, ``loss`` first.
    """
    chosen, rejected = log_probs
    log_ratios = chosen - reference[0], rejected - reference[1]
    output = args.pair_losses(*log_ratios, divergence, preference)
    losses = output.losses - args.sft_weight * chosen / num_targets.clamp(min=1)
    return losses, {
        "loss": losses,
        "logps/chosen": chosen,
        "logps/rejected": rejected,
        "log_ratios/chosen": log_ratios[0],
        "log_ratios/rejected": log_ratios[1],
        "rewards/chosen": output.chosen_rewards,
        "rewards/rejected": output.rejected_rewards,
        "rewards/margins": output.margins,
        "rewards/accuracies": output.chosen_rewards > output.rejected_rewards,
        "slopes/chosen": output.chosen_slopes,
        "slopes/rejected": output.rejected_slopes,
        "tail_fraction": output.in_tail,
    }
