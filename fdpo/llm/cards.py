"""What model cards say about a run."""

from __future__ import annotations

from fdpo.divergences import Divergence
from fdpo.llm.config import FDPOConfig

CITATION = """\
@inproceedings{wang2024beyond,
  title     = {Beyond Reverse {KL}: Generalizing Direct Preference Optimization with
               Diverse Divergence Constraints},
  author    = {Wang, Chaoqi and Jiang, Yibo and Yang, Chenghao and Liu, Han and Chen, Yuxin},
  booktitle = {International Conference on Learning Representations},
  year      = {2024},
  url       = {https://arxiv.org/abs/2309.16240}
}"""


def describe_loss(
    args: FDPOConfig, divergence: Divergence, preference: str, dataset_name: str | None
) -> str:
    """Returns a Markdown section that names divergence, preference loss, strength and data."""
    tail = "off" if args.tail is None else f"{args.tail:g}"
    rows = {
        "divergence": f"`{divergence}`",
        "preference loss of the margin": f"`{preference}`",
        "β": f"{args.beta:g}",
        "curvature matching": "on" if args.match_curvature else "off",
        "linear tail τ": tail,
        "label smoothing": f"{args.label_smoothing:g}",
        "share of the rejected side's gradient": f"{args.loser_gradient:g}",
        "SFT weight": f"{args.sft_weight:g}",
        "data": dataset_name or "not named",
    }
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    return f"""
## Divergence

Trained with f-DPO: the implicit reward is β f′(π/π_ref).

| | |
|---|---|
{table}

```bibtex
{CITATION}
```
"""
