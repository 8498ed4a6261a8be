"""Scorers: functions from prompts and completions to scores, larger is better.

A scorer is any function ``(prompts, completions) -> scores`` over two sequences of equal length.
:func:`get_scorer` makes one from a name:

- ``vader``: the compound sentiment of the vaderSentiment package, in [-1, 1];
- ``package.module:function``: a function of the user's code;
- a hub id or a folder: a model for ``AutoModelForSequenceClassification``. With class logits z and
  the label y that counts, the score is the log-odds log p_y / (1 - p_y) = z_y - log Σ_{c≠y} exp z_c
  or the logit z_y. The score of a reward model with one output is that output. It is that of the
  text alone, whatever the batch. Where the tokenizer has a chat template, the prompt becomes the
  user's turn (or is a list of messages already) and the completion the assistant's.

Every scorer is checked: it must return as many scores as there are texts, each a finite number.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fdpo.plugins import load_plugin
from fdpo.runs.notes import note

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
            A chat loses its beginning, any other text its end, and a warning says so.
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
        analyzer.polarity_scores(_plain_text(prompt, completion))["compound"]
        for prompt, completion in zip(prompts, completions, strict=True)
    ]


def _function(spec: str) -> Callable[..., Any]:
    function = load_plugin(spec, "scorer")
    if not callable(function):
        kind = type(function).__name__
        raise ValueError(f"scorer {spec}: {spec.rpartition(':')[2]} is a {kind}, not a function")
    return function


def _plain_text(prompt: Any, completion: str) -> str:
    """Returns prompt and completion as one text; the messages of a prompt are a paragraph each."""
    if isinstance(prompt, str):
        return prompt + completion
    return "\n\n".join([*(str(message["content"]) for message in prompt), completion])


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
        self.name = name
        self.model, self.tokenizer = _load_classifier(name)
        config = self.model.config
        self.device = device or torch.accelerator.current_accelerator(check_available=True) or "cpu"
        self.model.to(self.device).eval()
        self.label = _label_index(name, config.id2label, label)
        self.logit = logit or len(config.id2label) == 1
        self.batch_size = batch_size
        lengths = (max_length, *_contexts(self.model, self.tokenizer))
        self.max_length = min(filter(None, lengths), default=None)
        self.chat = bool(getattr(self.tokenizer, "chat_template", None))
        self.pad_id = _padding_id(self.model)
        self.pads = None if self.pad_id is not None else False

    @torch.no_grad()
    def __call__(self, prompts: Sequence[Any], completions: Sequence[str]) -> list[float]:
        ids = self._tokenized(prompts, completions)
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
        if self.pads is None and ids and len(ids[order[0]]) < len(ids[order[-1]]):
            self.pads = self._ignores_padding(ids[order[0]], ids[order[-1]])
        scores = torch.empty(len(ids))
        for rows in self._batches(order, [len(row) for row in ids]):
            logits = self._logits([ids[i] for i in rows])
            scores[rows] = self._score(logits.float()).cpu()
        return scores.tolist()

    def _tokenized(self, prompts: Sequence[Any], completions: Sequence[str]) -> list[list[int]]:
        """Returns the tokens of each text, truncated, with a warning if any is."""
        pairs = zip(prompts, completions, strict=True)
        texts = [self._chat(*pair) if self.chat else _plain_text(*pair) for pair in pairs]
        if not texts:
            return []
        # A template writes the tokens at the beginning and the end itself.
        ids = self.tokenizer(texts, add_special_tokens=not self.chat)["input_ids"]
        if self.max_length is None or (longest := max(map(len, ids))) <= self.max_length:
            return [row or [self.pad_id or 0] for row in ids]
        long = sum(len(row) > self.max_length for row in ids)
        part = "beginnings" if self.chat else "ends"
        note(
            f"scorer {self.name}: {long:,} of {len(ids):,} texts have more than {self.max_length} "
            f"tokens (up to {longest}): their {part} do not count"
        )
        if self.chat:
            return [row[-self.max_length :] for row in ids]
        return self.tokenizer(texts, truncation=True, max_length=self.max_length)["input_ids"]

    def _chat(self, prompt: Any, completion: str) -> str:
        from jinja2 import TemplateError

        turns = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
        try:
            return self.tokenizer.apply_chat_template(
                [*turns, {"role": "assistant", "content": completion}], tokenize=False
            )
        except TemplateError as error:
            raise ValueError(f"scorer {self.name}: its chat template refuses: {error}") from error

    def _batches(self, order: Sequence[int], lengths: Sequence[int]) -> Iterator[list[int]]:
        """Yields rows of a batch: neighbours in length or, without padding, equals in it."""
        batch: list[int] = []
        for row in order:
            ends = batch and not self.pads and lengths[row] != lengths[batch[0]]
            if ends or len(batch) == self.batch_size:
                yield batch
                batch = []
            batch.append(row)
        if batch:
            yield batch

    def _logits(self, ids: Sequence[Sequence[int]]) -> Tensor:
        longest = max(map(len, ids))
        padded = [[*row, *[self.pad_id] * (longest - len(row))] for row in ids]
        mask = [[1] * len(row) + [0] * (longest - len(row)) for row in ids]
        return self.model(
            input_ids=torch.tensor(padded, device=self.device),
            attention_mask=torch.tensor(mask, device=self.device),
        ).logits

    def _ignores_padding(self, short: Sequence[int], long: Sequence[int]) -> bool:
        """Returns whether a text scores beside a longer one as it does alone, but for rounding.

        Models that ignore the attention mask, or count positions from the other end, do not.
        """
        alone, beside = self._logits([short]).float(), self._logits([short, long]).float()
        return torch.allclose(alone[0], beside[0], rtol=0, atol=1e-4 * beside.abs().max().item())

    def _score(self, logits: Tensor) -> Tensor:
        chosen = logits[:, self.label]
        if self.logit:
            return chosen
        others = [i for i in range(logits.shape[1]) if i != self.label]
        return chosen - logits[:, others].logsumexp(1)


def _padding_id(model: Any) -> int | None:
    """Returns the token that pads a batch, ``None`` where texts must not be padded.

    It is the configuration's, by which a decoder finds the last token of a text and RoBERTa the
    positions, whatever the tokenizer's is. Without a valid one no token counts as padding.
    """
    configs = {id(config): config for config in (model.config, model.config.get_text_config())}
    pad_id = model.config.get_text_config().pad_token_id
    if pad_id is not None and 0 <= pad_id < model.get_input_embeddings().num_embeddings:
        return pad_id
    for config in configs.values():
        config.pad_token_id = -1  # with None decoders refuse batches
    return None


def _contexts(model: Any, tokenizer: Any) -> Iterator[int | None]:
    """Yields the longest texts that a model and its tokenizer take, in tokens, where known."""
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    yield context if context is not None and context > 0 else None
    # transformers writes an unknown length as 1e30
    yield tokenizer.model_max_length if tokenizer.model_max_length < 1e9 else None
    for name, module in model.named_modules():
        if (
            name.endswith("position_embeddings")
            and getattr(module, "padding_idx", None) is not None
        ):
            yield module.num_embeddings - module.padding_idx - 1  # RoBERTa counts from behind it


def _load_classifier(name: str) -> tuple[Any, Any]:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    folder = Path(name)
    if folder.is_dir() and not any(folder.glob("*.safetensors")):
        raise ValueError(f"scorer {name}: a folder without weights (no *.safetensors)")
    try:
        # safetensors only: other files of weights may run the code of a stranger
        model = AutoModelForSequenceClassification.from_pretrained(
            name, dtype="float32", use_safetensors=True, trust_remote_code=False
        )
        return model, AutoTokenizer.from_pretrained(name, trust_remote_code=False)
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
