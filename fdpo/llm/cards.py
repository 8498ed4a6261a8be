"""What model cards say about a run."""

from __future__ import annotations

from fdpo.cards import loss_section
from fdpo.divergences.members import Divergence
from fdpo.llm.config import FDPOConfig


def describe_loss(
    args: FDPOConfig, divergence: Divergence, preference: str, dataset_name: str | None
) -> str:
    """Returns a Markdown section that names divergence, preference loss, strength and data."""
    more = {"SFT weight": f"{args.sft_weight:g}", "data": dataset_name or "not named"}
    return loss_section(args, divergence, preference, more)
