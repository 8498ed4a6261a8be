"""What model cards say about the loss of a run."""

from __future__ import annotations

from collections.abc import Mapping

from fdpo.divergences.members import Divergence
from fdpo.losses.config import LossConfig

CITATION = """\
@inproceedings{wang2024beyond,
  title     = {Beyond Reverse {KL}: Generalizing Direct Preference Optimization with
               Diverse Divergence Constraints},
  author    = {Wang, Chaoqi and Jiang, Yibo and Yang, Chenghao and Liu, Han and Chen, Yuxin},
  booktitle = {International Conference on Learning Representations},
  year      = {2024},
  url       = {https://arxiv.org/abs/2309.16240}
}"""


def loss_section(
    options: LossConfig, divergence: Divergence, preference: str, more: Mapping[str, str]
) -> str:
    """Returns a Markdown section that names divergence, preference loss, strength, and more."""
    tail = "off" if options.tail is None else f"{options.tail:g}"
    rows = {
        "divergence": f"`{divergence}`",
        "preference loss of the margin": f"`{preference}`",
        "β": f"{options.beta:g}",
        "curvature matching": "on" if options.match_curvature else "off",
        "linear tail τ": tail,
        "label smoothing": f"{options.label_smoothing:g}",
        "share of the rejected side's gradient": f"{options.loser_gradient:g}",
        **more,
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
