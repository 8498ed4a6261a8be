"""Reviews, tokenizers and metrics of the programs that train the embedded models."""

import json
import math
from pathlib import Path

import pytest
import torch

from fdpo.llm.models import load_model, load_tokenizer
from fdpo.tasks import imdb

ROOT = Path(__file__).parents[2]


def test_line_breaks_replace_markup() -> None:
    assert imdb.clean_review("One. <br /><br />Two<br/>three ") == "One.\nTwo\nthree"


def test_split_depends_on_the_texts_alone(tmp_path: Path) -> None:
    rows = [{"text": f"review {i}", "label": i % 2} for i in range(40)]
    splits = []
    for name, order in (("a", rows), ("b", rows[::-1] + rows[:5])):
        file = tmp_path / f"{name}.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in order))
        splits.append(imdb.load_texts(str(file), held_out=10))
    assert splits[0].train == splits[1].train and splits[0].held_out == splits[1].held_out
    assert not set(splits[0].train) & set(splits[0].held_out)
    assert splits[0].labels["review 3"] == 1


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"review": "a"}], "no column text; found review"),
        ([{"text": "a"}], "1 texts, of which 10 are held out"),
    ],
)
def test_wrong_reviews_are_named(tmp_path: Path, rows: list[dict], message: str) -> None:
    file = tmp_path / "reviews.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(ValueError, match=message):
        imdb.load_texts(str(file), held_out=10)
    with pytest.raises(ValueError, match="no such file"):
        imdb.load_texts("nowhere.jsonl")


def test_metrics_are_those_of_one_pass_where_a_text_fits(tiny_model: Path) -> None:
    model, tokenizer = load_model(str(tiny_model)), load_tokenizer(str(tiny_model))
    text = " the film was fine and I loved it so much"
    metrics = imdb.language_model_metrics(model, tokenizer, [text])
    ids = torch.tensor([tokenizer(text)["input_ids"] + [tokenizer.eos_token_id]])
    nats = torch.nn.functional.cross_entropy(
        model(ids).logits[0, :-1], ids[0, 1:], reduction="sum"
    ).item()
    assert metrics["tokens"] == ids.shape[1] - 1
    assert metrics["perplexity"] == pytest.approx(math.exp(nats / metrics["tokens"]), rel=1e-5)
    assert metrics["bits_per_byte"] == pytest.approx(nats / math.log(2) / len(text), rel=1e-5)


def test_windows_score_every_token_once(tiny_model: Path) -> None:
    model, tokenizer = load_model(str(tiny_model)), load_tokenizer(str(tiny_model))
    text = " the film was fine and I loved it so much" * 20
    metrics = imdb.language_model_metrics(model, tokenizer, [text])
    assert metrics["tokens"] == len(tokenizer(text)["input_ids"])  # begin token out, end token in
    assert metrics["tokens"] > 2 * model.config.max_position_embeddings


@pytest.mark.parametrize("name", ["imdb-gpt2", "imdb-sentiment"])
def test_embedded_weights_are_small(name: str) -> None:
    assert (ROOT / "pretrained" / name / "model.safetensors").stat().st_size <= 6_000_000


def test_embedded_language_model_is_as_good_as_its_card_says(data_dir: Path) -> None:
    splits = imdb.load_texts(str(data_dir / "imdb/train_20k.jsonl.gz"))
    folder = str(ROOT / "pretrained/imdb-gpt2")
    metrics = imdb.language_model_metrics(
        load_model(folder), load_tokenizer(folder), splits.test[:60]
    )
    assert metrics["bits_per_byte"] < 1.65
