"""Scores of completions under one or two language models: log-probs, entropies, KL divergences.

For a prompt x and a completion y of tokens y_1 … y_T,

    log π(y | x) = Σ_t log softmax(z_t)[y_t],    z_t the logits after x, y_1 … y_{t−1},

in float32. Completions are given by the ids that were generated, because a text that is tokenised
again may have others.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel

from fdpo.estimators.divergences import predictive_entropy, rao_blackwell_kl
from fdpo.llm.generation.batches import by_length, inference


class Scores(NamedTuple):
    """log π(y | x) and the mean entropy of the predictions along y, in nats, with shape (N,)."""

    log_probs: Tensor
    entropies: Tensor


class PairedScores(NamedTuple):
    """Scores of a model's completions y under it and under another, in nats with shape (N,).

    ``log_probs`` and ``entropies`` are the model's. ``other_log_probs`` is log π(y | x) of the
    other; ``kls`` sums the model's KL divergence from the other along y, over the whole vocabulary
    (see `fdpo.estimators.divergences.rao_blackwell_kl`).
    """

    log_probs: Tensor
    entropies: Tensor
    other_log_probs: Tensor
    kls: Tensor


def completion_log_probs(
    model: PreTrainedModel,
    prompt_ids: Sequence[Sequence[int]],
    completion_ids: Sequence[Sequence[int]],
    *,
    batch_size: int = 64,
) -> Scores:
    """Scores N completions under a model.

    Arguments:
        model: A causal language model.
        prompt_ids: The tokens of each completion's prompt.
        completion_ids: The tokens of each completion, as they were generated.
        batch_size: Completions in a batch.

    Returns:
        log π(y | x), which for samples of the model itself equals their ``log_prob``, and the
        entropy of the model's prediction, averaged over the tokens of y, both on the CPU.

    Raises:
        ValueError: If a prompt or a completion is empty.
    """
    result = Scores(*torch.empty(2, len(prompt_ids)))
    for row, tokens, [log_probs] in _token_log_probs(
        [model], prompt_ids, completion_ids, batch_size
    ):
        result.log_probs[row] = log_probs.gather(1, tokens).sum()
        result.entropies[row] = predictive_entropy(log_probs)
    return result


def completion_kls(
    model: PreTrainedModel,
    other: PreTrainedModel,
    prompt_ids: Sequence[Sequence[int]],
    completion_ids: Sequence[Sequence[int]],
    *,
    batch_size: int = 64,
) -> PairedScores:
    """Scores a model's samples under it and under another model with the same vocabulary.

    The arguments are those of `completion_log_probs`.
    """
    result = PairedScores(*torch.empty(4, len(prompt_ids)))
    both = [model, other]
    for row, tokens, log_probs in _token_log_probs(both, prompt_ids, completion_ids, batch_size):
        sums = [values.gather(1, tokens).sum() for values in log_probs]
        result.log_probs[row], result.other_log_probs[row] = sums
        result.entropies[row] = predictive_entropy(log_probs[0])
        result.kls[row] = rao_blackwell_kl(*log_probs)
    return result


def _token_log_probs(
    models: Sequence[PreTrainedModel],
    prompt_ids: Sequence[Sequence[int]],
    completion_ids: Sequence[Sequence[int]],
    batch_size: int,
) -> Iterator[tuple[int, Tensor, list[Tensor]]]:
    """Yields a completion's number, its ids (T, 1) and the models' log-probs along it (T, V)."""
    if not all(map(len, prompt_ids)) or not all(map(len, completion_ids)):
        raise ValueError("every prompt and every completion needs at least one token")
    pairs = list(zip(prompt_ids, completion_ids, strict=True))
    sequences = [[*prompt, *completion] for prompt, completion in pairs]
    with ExitStack() as stack:
        for model in models:
            stack.enter_context(inference(model))
        for rows in by_length(sequences, batch_size):
            batch = [sequences[row] for row in rows]
            logits = [model(**_padded(model, batch), use_cache=False).logits for model in models]
            for i, row in enumerate(rows):
                start, end = len(pairs[row][0]), len(sequences[row])
                log_probs = [z[i, start - 1 : end - 1].float().log_softmax(-1) for z in logits]
                tokens = torch.tensor(pairs[row][1], device=log_probs[0].device)
                yield row, tokens[:, None], log_probs


def completion_embeddings(
    model: PreTrainedModel, completion_ids: Sequence[Sequence[int]], *, batch_size: int = 64
) -> Tensor:
    """Returns the model's last hidden states, averaged over each of N completions, shape (N, D).

    The model reads the completion alone, without its prompt.
    """
    means: dict[int, Tensor] = {}
    with inference(model):
        for rows in by_length(completion_ids, batch_size):
            inputs = _padded(model, [completion_ids[row] for row in rows])
            states = model.base_model(**inputs, use_cache=False).last_hidden_state.float()
            mask = inputs["attention_mask"][..., None]
            means |= zip(rows, ((states * mask).sum(1) / mask.sum(1)).cpu(), strict=True)
    return torch.stack([means[row] for row in range(len(completion_ids))])


def _padded(model: PreTrainedModel, sequences: Sequence[Sequence[int]]) -> dict[str, Tensor]:
    length, device = max(map(len, sequences)), model.device
    ids = [[*ids] + [0] * (length - len(ids)) for ids in sequences]
    mask = [[1] * len(ids) + [0] * (length - len(ids)) for ids in sequences]
    return {
        "input_ids": torch.tensor(ids, device=device),
        "attention_mask": torch.tensor(mask, device=device),
    }
