"""Scorers: functions from prompts and completions to scores, larger is better.

A scorer is any function ``(prompts, completions) -> scores`` over two sequences of equal length.
:func:`get_scorer` makes one from a name:

- ``vader``: the compound sentiment of the vaderSentiment package, in [-1, 1];
- ``package.module:function``: a function of the user's code;
- a hub id or a folder: a model for ``AutoModelForSequenceClassification``. With class logits z and
  the label y that counts, the score is the log-odds log p_y / (1 - p_y) = z_y - log Σ_{c≠y} exp z_c
  or the logit z_y. The score of a reward model with one output is that output.

Every scorer is checked: it must return as many scores as there are texts, each a finite number.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fdpo.plugins import load_plugin

Scorer = Callable[[Sequence[str], Sequence[str]], list[float]]


def get_scorer(
    spec: str,
    *,
    label: str | None = None,
    logit: bool = False,
    batch_size: int = 64,
    max_length: int | None = None,
    device: str | torch.device | None = None,
) -> Scorer:
    """Returns the scorer of a name (see the module); the options are those of a classifier.

    Arguments:
        spec: The name.
        label: The name or the index of the label that counts; by default the one named positive,
            or else the last.
        logit: Whether the score is the logit of the label instead of its log-odds.
        batch_size: Texts in a batch.
        max_length: Tokens after which a text is truncated; by default the context of the model.
        device: The device of the model; by default an accelerator if there is one.

    Raises:
        ValueError: If there is no such scorer or label.

    Example:
        >>> scorer = get_scorer("vader")
        >>> scorer(["The film ", "The film "], ["is wonderful.", "is awful."])
        [0.5719, -0.4588]
    """
    if spec == "vader":
        return checked(_vader(), spec)
    if ":" in spec and not os.path.exists(spec):
        return checked(_function(spec), spec)
    return checked(_Classifier(spec, label, logit, batch_size, max_length, device), spec)


def checked(scorer: Callable[..., Any], spec: str) -> Scorer:
    """Returns a scorer that raises `ValueError`, naming it, for results that are not scores."""

    def score(prompts: Sequence[str], completions: Sequence[str]) -> list[float]:
        result = scorer(prompts, completions)
        try:
            scores = [float(score) for score in result]
        except (TypeError, ValueError) as error:
            kind = type(result).__name__
            raise ValueError(
                f"scorer {spec}: must return a list of numbers, not {kind} ({error})"
            ) from error
        if len(scores) != len(completions):
            raise ValueError(f"scorer {spec}: {len(scores)} scores for {len(completions)} texts")
        for completion, value in zip(completions, scores, strict=True):
            if not math.isfinite(value):
                raise ValueError(f"scorer {spec}: score {value} for {completion[:60]!r}")
        return scores

    return score


def _vader() -> Scorer:
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    analyzer = SentimentIntensityAnalyzer()
    return lambda prompts, completions: [
        analyzer.polarity_scores(prompt + completion)["compound"]
        for prompt, completion in zip(prompts, completions, strict=True)
    ]


def _function(spec: str) -> Callable[..., Any]:
    function = load_plugin(spec, "scorer")
    if not callable(function):
        kind = type(function).__name__
        raise ValueError(f"scorer {spec}: {spec.rpartition(':')[2]} is a {kind}, not a function")
    return function


class _Classifier:
    """A scorer of whole texts, prompt and completion, by a sequence classifier."""

    def __init__(
        self,
        name: str,
        label: str | None,
        logit: bool,
        batch_size: int,
        max_length: int | None,
        device: str | torch.device | None,
    ) -> None:
        self.model, self.tokenizer = _load_classifier(name)
        config = self.model.config
        self.device = device or torch.accelerator.current_accelerator(check_available=True) or "cpu"
        self.model.to(self.device).eval()
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
            config.pad_token_id = self.tokenizer.pad_token_id
        self.label = _label_index(name, config.id2label, label)
        self.logit = logit or len(config.id2label) == 1
        self.batch_size = batch_size
        longest = self.tokenizer.model_max_length
        context = getattr(config, "max_position_embeddings", longest)
        self.max_length = max_length or min(context, longest)

    @torch.no_grad()
    def __call__(self, prompts: Sequence[str], completions: Sequence[str]) -> list[float]:
        texts = [a + b for a, b in zip(prompts, completions, strict=True)]
        if not texts:
            return []
        ids = self.tokenizer(texts, truncation=True, max_length=self.max_length)["input_ids"]
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
        scores = torch.empty(len(ids))
        for start in range(0, len(order), self.batch_size):
            rows = order[start : start + self.batch_size]
            batch = self.tokenizer.pad({"input_ids": [ids[i] for i in rows]}, return_tensors="pt")
            logits = self.model(**batch.to(self.device)).logits
            scores[rows] = self._score(logits.float()).cpu()
        return scores.tolist()

    def _score(self, logits: Tensor) -> Tensor:
        chosen = logits[:, self.label]
        if self.logit:
            return chosen
        others = [i for i in range(logits.shape[1]) if i != self.label]
        return chosen - logits[:, others].logsumexp(1)


def _load_classifier(name: str) -> tuple[Any, Any]:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    folder = Path(name)
    if folder.is_dir() and not any(folder.glob("*.safetensors")):
        raise ValueError(f"scorer {name}: a folder without weights (no *.safetensors)")
    try:
        # safetensors only: loading a pickle may run the code of a stranger
        model = AutoModelForSequenceClassification.from_pretrained(
            name, dtype="float32", use_safetensors=True
        )
        return model, AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        reason = str(error).strip().split("\n")[0]
        raise ValueError(
            f"scorer {name}: neither vader, nor package.module:function, nor a sequence "
            f"classifier that can be loaded from a folder or the hub ({reason})"
        ) from error


def _label_index(name: str, labels: dict[int, str], label: str | None) -> int:
    if label is None:
        positive = [i for i, text in labels.items() if text.lower() == "positive"]
        return positive[0] if positive else len(labels) - 1
    for index, text in labels.items():
        if label in (text, str(index)):
            return index
    known = ", ".join(f"{index} {text}" for index, text in labels.items())
    raise ValueError(f"scorer {name}: no label {label!r}; its labels are {known}")
