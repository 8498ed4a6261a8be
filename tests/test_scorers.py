"""Scorers: classifiers against their logits, VADER, plug-ins, and wrong scorers."""

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    PreTrainedTokenizerFast,
)

from fdpo.scorers import get_scorer

WORDS = "good bad film plot".split()
PROMPTS = ["good ", "", "bad film plot good ", "film "]
COMPLETIONS = ["film", "plot plot good bad film", "bad", "good good"]


def classifier(folder: Path, labels: list[str], length: int = 32) -> str:
    """Saves an untrained classifier with words as tokens; returns its name."""
    torch.manual_seed(0)
    vocab = {word: i for i, word in enumerate(["<pad>", "<unk>", *WORDS])}
    words = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>")
    config = DistilBertConfig(
        vocab_size=len(vocab),
        dim=16,
        hidden_dim=16,
        n_layers=1,
        n_heads=2,
        max_position_embeddings=length,
        initializer_range=1.0,
        pad_token_id=0,
        id2label=dict(enumerate(labels)),
        label2id={label: i for i, label in enumerate(labels)},
    )
    DistilBertForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def logits(folder: str, length: int = 32) -> torch.Tensor:
    """Returns the logits of prompts with completions, one text at a time."""
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    rows = []
    for prompt, completion in zip(PROMPTS, COMPLETIONS, strict=True):
        ids = [2 + WORDS.index(word) for word in (prompt + completion).split()][:length]
        rows.append(model(torch.tensor([ids])).logits[0].detach())
    return torch.stack(rows)


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_log_odds_of_the_positive_label(tmp_path: Path, batch_size: int) -> None:
    name = classifier(tmp_path, ["bad", "POSITIVE", "dull"])
    z = logits(name)
    expected = torch.logit(z.double().softmax(1)[:, 1])
    scores = get_scorer(name, batch_size=batch_size)(PROMPTS, COMPLETIONS)
    assert z.std(0).min() > 0.1
    torch.testing.assert_close(torch.tensor(scores), expected.float(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("label", "index"), [(None, 2), ("fair", 1), ("0", 0)])
def test_labels_and_plain_logits(tmp_path: Path, label: str | None, index: int) -> None:
    name = classifier(tmp_path, ["poor", "fair", "great"])
    scores = get_scorer(name, label=label, logit=True)(PROMPTS, COMPLETIONS)
    torch.testing.assert_close(torch.tensor(scores), logits(name)[:, index])


def test_two_labels_differ_by_their_logits(tmp_path: Path) -> None:
    name = classifier(tmp_path, ["negative", "positive"])
    z = logits(name)
    scores = get_scorer(name)(PROMPTS, COMPLETIONS)
    torch.testing.assert_close(torch.tensor(scores), z[:, 1] - z[:, 0])


def test_a_reward_model_scores_by_its_output(tmp_path: Path) -> None:
    name = classifier(tmp_path, ["reward"])
    scores = get_scorer(name)(PROMPTS, COMPLETIONS)
    torch.testing.assert_close(torch.tensor(scores), logits(name)[:, 0])


@pytest.mark.parametrize(("context", "max_length"), [(2, None), (32, 2)])
def test_long_texts_are_truncated(tmp_path: Path, context: int, max_length: int | None) -> None:
    name = classifier(tmp_path, ["negative", "positive"], length=context)
    scores = get_scorer(name, logit=True, max_length=max_length)(PROMPTS, COMPLETIONS)
    torch.testing.assert_close(torch.tensor(scores), logits(name, length=2)[:, 1])


def test_vader_scores_prompt_and_completion() -> None:
    scorer = get_scorer("vader")
    good, bad, flat = scorer(["A film", "A film", "A"], [" I loved", " I hated", " film"])
    assert good > 0.5 and bad < -0.5 and flat == 0
    assert scorer(["I loved it"], [""])[0] > 0.5


FUNCTIONS = """
import math
rows = [1]
def lengths(prompts, completions): return [len(p) - len(c) for p, c in zip(prompts, completions)]
def array(prompts, completions):
    import numpy
    return numpy.array([float(len(c)) for c in completions])
def short(prompts, completions): return [0.0]
def nan(prompts, completions): return [math.nan] * len(completions)
def nothing(prompts, completions): return None
def words(prompts, completions): return list(completions)
"""


@pytest.fixture
def plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_scorers.py").write_text(FUNCTIONS)
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.usefixtures("plugins")
def test_functions() -> None:
    assert get_scorer("my_scorers:lengths")(["ab", ""], ["c", "de"]) == [1.0, -2.0]
    assert get_scorer("my_scorers:array")(["", ""], ["c", "de"]) == [1.0, 2.0]


@pytest.mark.usefixtures("plugins")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("short", "1 scores for 2 texts"),
        ("nan", "score nan for 'one'"),
        ("nothing", "must return a list of numbers, not NoneType"),
        ("words", "must return a list of numbers, not list"),
    ],
)
def test_wrong_returns(name: str, message: str) -> None:
    scorer = get_scorer(f"my_scorers:{name}")
    with pytest.raises(ValueError, match=f"scorer my_scorers:{name}: {message}"):
        scorer(["", ""], ["one", "two"])


@pytest.mark.usefixtures("plugins")
@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("my_scorers:missing", "my_scorers has no 'missing'"),
        ("my_scorers:rows", "rows is a list, not a function"),
        ("no_such_module:f", "cannot import 'no_such_module'"),
        (":f", "cannot import ''"),
        ("vadr", "neither vader, nor package.module:function, nor a sequence classifier"),
        ("nobody/no-such-model", "neither vader"),
    ],
)
def test_unknown_scorers(spec: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        get_scorer(spec)
    assert str(caught.value).startswith(f"scorer {spec}: ") and "\n" not in str(caught.value)


def test_wrong_folders_and_labels(tmp_path: Path) -> None:
    name = classifier(tmp_path / "model", ["bad", "good"])
    with pytest.raises(ValueError, match="no label 'fine'; its labels are 0 bad, 1 good"):
        get_scorer(name, label="fine")
    (tmp_path / "model/model.safetensors").unlink()
    with pytest.raises(ValueError, match="a folder without weights"):
        get_scorer(name)
