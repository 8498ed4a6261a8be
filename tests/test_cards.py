"""Model cards and dataset cards: front matter that the hub and `datasets` read."""

import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from fdpo.cards import code_span, dataset_card, loss_section, markdown_table, model_card
from fdpo.losses.config import LossConfig
from fdpo.preferences.dataset import _card


def front_matter(card: str) -> dict[str, Any]:
    start, front, _ = card.split("---\n", 2)
    assert start == ""
    return yaml.safe_load(front)


def test_model_card() -> None:
    metadata = {
        "base_model": "a: b",  # YAML that must be quoted
        "library_name": "diffusers",
        "tags": ["dpo", "lora"],
        "base_model_relation": "adapter",
    }
    card = model_card("A {{ fox }}", "\nOne line: α.\n\n---\n\n{% if %}\n", **metadata)
    assert front_matter(card) == metadata
    assert card.endswith("---\n\n# A {{ fox }}\n\nOne line: α.\n\n---\n\n{% if %}\n")


def test_dataset_card() -> None:
    metadata = {
        "task_categories": ["text-generation"],
        "configs": [
            {"config_name": "pairs", "default": True, "data_files": "pairs.jsonl"},
            {"config_name": "groups", "data_files": "groups.jsonl"},
        ],
    }
    card = dataset_card("data", "Text.", **metadata)
    assert front_matter(card) == metadata and card.endswith("---\n\n# data\n\nText.\n")


def test_table() -> None:
    assert markdown_table({"a": 1, "b": "x"}) == "| | |\n|---|---|\n| a | 1 |\n| b | x |"


HOSTILE = [
    "<script>alert(1)</script>",
    "![x](https://example.org/x.png)",
    "a `b` ``c`` <img src=x onerror=y>",
    "`",
    "``` \n# heading\n- item",
    "a | b",
    "https://example.org www.example.org",
    "**bold** _x_ [link](javascript:a) &lt;",
    "\x1b[2J\u202eabc\ud800",
    "",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_data_is_not_rendered(text: str) -> None:
    """A span of code ends at a fence of its own length only, and nothing in it is rendered."""
    span = code_span(text)
    fence = span[: len(span) - len(span.lstrip("`"))]
    inside = span[len(fence) : -len(fence)]
    assert span.endswith(fence) and "\n" not in span and inside
    assert len(fence) not in map(len, re.findall("`+", inside))
    assert not re.search("[\x00-\x1f\u202e\ud800]", span)
    row = markdown_table({text: text}).splitlines()[2]
    assert len(re.findall(r"(?<!\\)\|", row)) == 3
    assert not text or row.startswith("| `")


@pytest.mark.parametrize(("tail", "text"), [(None, "off"), (2.0, "2")])
def test_loss_section_states_every_option(tail: float | None, text: str) -> None:
    config = LossConfig(
        loss="alpha", alpha=0.3, beta=0.25, label_smoothing=0.1, tail=tail, loser_gradient=0.5
    )
    section = loss_section(config, *config.resolve(), {"data": "pairs of foxes"})
    for row in (
        "| divergence | alpha(0.3) |",
        "| preference loss of the margin | logistic |",
        "| β | 0.25 |",
        "| curvature matching | off |",
        f"| linear tail τ | {text} |",
        "| label smoothing | 0.1 |",
        "| share of the rejected side's gradient | 0.5 |",
        "| data | pairs of foxes |",
        "arxiv.org/abs/2309.16240",
    ):
        assert row in section


@pytest.mark.parametrize("test", [0, 1])
def test_card_of_a_preference_dataset(tmp_path: Path, test: int) -> None:
    for name in ("train", "test", "groups"):
        (tmp_path / f"{name}.jsonl").write_text("{}\n")

    def card() -> str:
        counts = Counter(candidates=1234)
        return _card(tmp_path, counts, {"model_name": "x: y"}, 6, test, "text-generation")

    front = front_matter(card())
    pairs, groups = front["configs"]
    splits = ["train", "test"] if test else ["train"]
    assert front["task_categories"] == ["text-generation"]
    assert front["tags"] == ["preference", "dpo"]
    assert pairs["config_name"] == "pairs" and pairs["default"] is True
    assert pairs["data_files"] == [{"split": s, "path": f"{s}.jsonl"} for s in splits]
    assert groups["config_name"] == "groups" and groups["data_files"] == "groups.jsonl"
    assert pairs["description"] == groups["description"]
    assert "| model name | x: y |" in card() and "| candidates | 1,234 |" in card()
    for name in (*splits, "groups"):  # load_dataset caches by the description
        before = card()
        (tmp_path / f"{name}.jsonl").write_text("{} {}\n")
        assert front_matter(card()) != front_matter(before)
