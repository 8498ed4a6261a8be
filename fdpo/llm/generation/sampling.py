"""Completions of a language model: drawn from it, scored under it, or searched for in it.

For a prompt x and a completion y of tokens y_1 … y_T, the last of them the end token unless the
completion was cut,

    log π(y | x) = Σ_t log softmax(z_t)[y_t],    z_t the logits after x, y_1 … y_{t−1},

in float32. `sample` draws y from exactly this π (at temperature 1): no top-k, no top-p, no penalty,
whatever the model's generation config says, and returns log π of the ids that were drawn, so that
log-ratios of two models on such samples are those of the policies themselves.
`completion_log_probs` scores ids afterwards, under any model, and `completion_kls` under two.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from fdpo.estimators.divergences import predictive_entropy, rao_blackwell_kl
from fdpo.llm.generation.decoder import (
    Completion,
    Decoder,
    by_length,
    context_of,
    decode_completion,
    device_of,
    end_ids,
    inference,
    prompt_ids,
    require_room,
)
from fdpo.runs.seeds import derived_seed

__all__ = [
    "Completion",
    "Scored",
    "ScoredByBoth",
    "completion_embeddings",
    "completion_kls",
    "completion_log_probs",
    "first_words",
    "openings",
    "prompt_ids",
    "sample",
]


class Scored(NamedTuple):
    """log π(y | x) and the mean entropy of the predictions along y, in nats, with shape (N,)."""

    log_probs: Tensor
    entropies: Tensor


class ScoredByBoth(NamedTuple):
    """What two models say of completions y of the first, everything in nats with shape (N,).

    ``other_log_probs`` is log π(y | x) of the second; ``kls`` sums the first's KL divergence from
    it along y, over the whole vocabulary (see `fdpo.estimators.divergences.rao_blackwell_kl`).
    """

    log_probs: Tensor
    entropies: Tensor
    other_log_probs: Tensor
    kls: Tensor


def sample(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    *,
    samples: int = 1,
    max_new_tokens: int,
    batch_size: int = 64,
    seed: int,
    temperature: float = 1.0,
) -> list[list[Completion]]:
    """Draws completions of each prompt, independently, from the model as it is.

    Neither reads nor changes torch's global random state: the same seed gives the same samples.

    Arguments:
        model: A causal language model; sampled without dropout.
        tokenizer: Its tokenizer.
        prompts: The prompts; an empty one asks for whole texts.
        samples: Completions of each prompt.
        max_new_tokens: The tokens after which a completion is cut.
        batch_size: Completions that are drawn at a time.
        seed: The seed.
        temperature: Divides the logits that tokens are drawn from; ``log_prob`` stays that of the
            plain model.
    """
    if samples < 1 or temperature <= 0:
        raise ValueError(f"samples {samples} must be at least 1, temperature {temperature} above 0")
    ids = prompt_ids(tokenizer, prompts)
    require_room(model, prompts, ids, max_new_tokens)
    ends = end_ids(model, tokenizer)
    generator = torch.Generator(device_of(model)).manual_seed(seed)
    results: list[list[Completion]] = [[] for _ in prompts]
    with inference(model):
        for rows in by_length(ids, max(1, batch_size // samples)):
            decoder = Decoder(model, [ids[row] for row in rows], copies=samples)
            drawn = _draw(decoder, max_new_tokens, ends, generator, temperature)
            for i, (tokens, log_prob) in enumerate(drawn):
                row = rows[i // samples]
                results[row].append(decode_completion(tokenizer, ids[row], tokens, log_prob, ends))
    return results


def _draw(
    decoder: Decoder,
    max_new_tokens: int,
    ends: set[int],
    generator: torch.Generator,
    temperature: float,
) -> list[tuple[list[int], float]]:
    rows = list(range(len(decoder.ids)))
    drawn: list[tuple[list[int], list[float]]] = [([], []) for _ in rows]
    for step in range(max_new_tokens):
        tokens = _drawn_from((decoder.log_probs / temperature).softmax(-1), generator)
        values = decoder.log_probs.gather(1, tokens)
        for row, token, value in zip(rows, tokens.tolist(), values.tolist(), strict=True):
            drawn[row][0].extend(token)
            drawn[row][1].extend(value)
        running = [i for i, row in enumerate(rows) if drawn[row][0][-1] not in ends]
        if not running or step + 1 == max_new_tokens:
            break
        if len(running) < len(rows):  # those that have ended leave the batch
            rows = [rows[i] for i in running]
            decoder.select(torch.tensor(running, device=tokens.device))
            tokens = tokens[running]
        decoder.append(tokens[:, 0])
    return [(ids, math.fsum(values)) for ids, values in drawn]


def _drawn_from(weights: Tensor, generator: torch.Generator) -> Tensor:
    """Draws an index for each row of weights, with shape (B, V); the result has shape (B, 1).

    By one uniform number a row, where ``torch.multinomial`` draws one for every weight.
    """
    ends = weights.cumsum(-1, dtype=torch.float64)
    uniform = torch.rand(len(ends), 1, dtype=torch.float64, device=ends.device, generator=generator)
    # An index without weight ends where the one before it does: it is never the first beyond.
    found = torch.searchsorted(ends, uniform * ends[:, -1:], right=True)
    return found.clamp(max=weights.shape[-1] - 1)


def completion_log_probs(
    model: PreTrainedModel,
    prompt_ids: Sequence[Sequence[int]],
    completion_ids: Sequence[Sequence[int]],
    *,
    batch_size: int = 64,
) -> Scored:
    """Scores completions, given as ids (see `Completion`), under a model; N of each.

    Returns log π(y | x), which for samples of the model itself equals their ``log_prob``, and the
    entropy of the model's prediction, averaged over the tokens of y, both on the CPU.
    """
    found = Scored(*torch.empty(2, len(prompt_ids)))
    for row, tokens, [scores] in _token_scores([model], prompt_ids, completion_ids, batch_size):
        found.log_probs[row] = scores.gather(1, tokens).sum()
        found.entropies[row] = predictive_entropy(scores)
    return found


def completion_kls(
    model: PreTrainedModel,
    other: PreTrainedModel,
    prompt_ids: Sequence[Sequence[int]],
    completion_ids: Sequence[Sequence[int]],
    *,
    batch_size: int = 64,
) -> ScoredByBoth:
    """Scores completions that were sampled from a model under it and under another, batch by batch.

    Both models have one vocabulary; the arguments are those of `completion_log_probs`.
    """
    found = ScoredByBoth(*torch.empty(4, len(prompt_ids)))
    both = [model, other]
    for row, tokens, scores in _token_scores(both, prompt_ids, completion_ids, batch_size):
        sums = [z.gather(1, tokens).sum() for z in scores]
        found.log_probs[row], found.other_log_probs[row] = sums
        found.entropies[row] = predictive_entropy(scores[0])
        found.kls[row] = rao_blackwell_kl(*scores)
    return found


def _token_scores(
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
                scores = [z[i, start - 1 : end - 1].float().log_softmax(-1) for z in logits]
                tokens = torch.tensor(pairs[row][1], device=scores[0].device)
                yield row, tokens[:, None], scores


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
    length, device = max(map(len, sequences)), device_of(model)
    ids = [[*ids] + [0] * (length - len(ids)) for ids in sequences]
    mask = [[1] * len(ids) + [0] * (length - len(ids)) for ids in sequences]
    return {
        "input_ids": torch.tensor(ids, device=device),
        "attention_mask": torch.tensor(mask, device=device),
    }


def openings(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    n: int,
    *,
    words: int | None = 8,
    seed: int,
    batch_size: int = 64,
    rounds: int = 20,
) -> list[str]:
    """Samples n distinct openings (see `first_words`) of texts from the model itself.

    Raises `ValueError` if ``rounds`` rounds of sampling do not find as many.
    """
    found: dict[str, None] = {}
    room = context_of(model) or 1024
    length = min(3 * (words or 20) + 8, room - 1)
    for turn in range(rounds):
        texts = sample(
            model,
            tokenizer,
            [""] * (n - len(found) + n // 4 + 8),  # some are too short, some equal
            max_new_tokens=length,
            batch_size=batch_size,
            seed=derived_seed(seed, turn),
        )
        found |= dict.fromkeys(filter(None, (first_words(drawn.text, words) for [drawn] in texts)))
        if len(found) >= n:
            return list(found)[:n]
    raise ValueError(
        f"the model gives only {len(found)} distinct openings of {words} words, not {n}"
    )


def first_words(text: str, words: int | None) -> str:
    """The first words of a text, or with None its first sentence; "" if nothing follows them.

    It ends where a word ends, without white space.
    """
    text = text.strip()
    if words is None:
        first, _, rest = text.partition(".")
        return first if rest else ""
    match = re.match(rf"\S++(?:\s++\S++){{{words - 1}}}(?=\s)", text)
    return match[0] if match else ""
