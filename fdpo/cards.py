"""Model cards and dataset cards: the ``README.md`` of a folder, as the Hugging Face Hub shows it.

A card is YAML front matter, which the hub reads, and Markdown, which people read. `huggingface_hub`
checks and writes the front matter.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from fdpo.divergences.base import Divergence
from fdpo.losses.config import LossConfig

TEMPLATE = """\
---
{{ card_data }}
---

# {{ title }}

{{ body }}"""

_PLAIN = re.compile(r"(?!.*(://|www\.))[\w ./,:;()'%+=±·-]*")
"""Texts in which Markdown and HTML have nothing to render."""
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")

CITATION = """\
@inproceedings{wang2024beyond,
  title     = {Beyond Reverse {KL}: Generalizing Direct Preference Optimization with
               Diverse Divergence Constraints},
  author    = {Wang, Chaoqi and Jiang, Yibo and Yang, Chenghao and Liu, Han and Chen, Yuxin},
  booktitle = {International Conference on Learning Representations},
  year      = {2024},
  url       = {https://arxiv.org/abs/2309.16240}
}"""


def model_card(title: str, body: str, **metadata: Any) -> str:
    """Renders the card of a model.

    Arguments:
        title: The heading.
        body: Markdown, below the heading.
        **metadata: The front matter: the arguments of `huggingface_hub.ModelCardData`
            (``base_model``, ``library_name``, ``pipeline_tag``, ``tags``, …) and any other key.

    Example:
        >>> print(model_card("fox", "A LoRA.", base_model="sd", tags=["dpo"]))
        ---
        base_model: sd
        tags:
        - dpo
        ---
        <BLANKLINE>
        # fox
        <BLANKLINE>
        A LoRA.
        <BLANKLINE>
    """
    from huggingface_hub import ModelCard, ModelCardData

    return _rendered(ModelCard, ModelCardData(**metadata), title, body)


def dataset_card(title: str, body: str, **metadata: Any) -> str:
    """Renders the card of a dataset.

    Arguments:
        title: The heading.
        body: Markdown, below the heading.
        **metadata: The front matter: the arguments of `huggingface_hub.DatasetCardData`
            (``task_categories``, …), ``tags``, and ``configs``, from which
            `datasets.load_dataset` learns which files make up which split.
    """
    from huggingface_hub import DatasetCard, DatasetCardData

    return _rendered(DatasetCard, DatasetCardData(**metadata), title, body)


def _rendered(card: Any, metadata: Any, title: str, body: str) -> str:
    text = card.from_template(metadata, template_str=TEMPLATE, title=title, body=body.strip())
    return f"{text}\n"


def markdown_table(rows: Mapping[str, object]) -> str:
    """Returns names and values as a Markdown table of two columns without a heading.

    They are shown as they are: a text that Markdown or HTML would render is set as code.
    """
    cells = ((_cell(name), _cell(value)) for name, value in rows.items())
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in cells)])


def code_span(text: str) -> str:
    """Returns a text in one line as inline code of Markdown, of which no viewer renders anything.

    The fence is longer than any in the text. Control characters, which could also move a terminal's
    cursor or turn the text's direction, are replaced.

    Example:
        >>> print(code_span("<b>two``\\nlines"))
        ```<b>two`` lines```
    """
    line = _CONTROLS.sub("\N{REPLACEMENT CHARACTER}", " ".join(text.split()))
    fence = "`" * (1 + max(map(len, re.findall("`+", line)), default=0))
    space = " " if not line or line[0] == "`" or line[-1] == "`" else ""
    return f"{fence}{space}{line}{space}{fence}"


def _cell(value: object) -> str:
    text = " ".join(str(value).split())
    return text if _PLAIN.fullmatch(text) else code_span(text).replace("|", r"\|")


def loss_section(
    config: LossConfig, divergence: Divergence, preference: str, more: Mapping[str, str]
) -> str:
    """Returns the section of a model card that states the loss and cites its paper.

    Arguments:
        config: The options of the loss.
        divergence: The divergence that they choose.
        preference: The preference loss that they choose.
        more: Further rows of the table.
    """
    rows = {
        "divergence": divergence,
        "preference loss of the margin": preference,
        "β": f"{config.beta:g}",
        "curvature matching": "on" if config.match_curvature else "off",
        "linear tail τ": "off" if config.tail is None else f"{config.tail:g}",
        "label smoothing": f"{config.label_smoothing:g}",
        "share of the rejected side's gradient": f"{config.loser_gradient:g}",
        **more,
    }
    return f"""
## Divergence

Trained with f-DPO: the implicit reward is β f′(π/π_ref).

{markdown_table(rows)}

```bibtex
{CITATION}
```
"""
