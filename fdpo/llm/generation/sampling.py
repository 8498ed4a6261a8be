"""Sampling of completions from a language model as it is.

`sample` draws y from exactly

    π(y | x) = Π_t softmax(z_t)[y_t],    z_t the logits after x, y_1 … y_{t−1},

at temperature 1: no top-k, no top-p, no penalty, whatever the model's generation config says. It
returns log π of the ids that it sampled (with the end token unless the completion was cut), so that
log-ratios of two models on such samples are those of the policies themselves.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from fdpo.llm.generation.batches import by_length, inference
from fdpo.llm.generation.conversations import Prompt
from fdpo.llm.generation.decoder import Decoder
from fdpo.llm.generation.tokens import decode_completion, end_ids, prompt_ids, require_room
from fdpo.preferences.generate import Completion


def sample(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    *,
    samples: int = 1,
    max_new_tokens: int,
    batch_size: int = 64,
    seed: int,
    temperature: float = 1.0,
) -> list[list[Completion]]:
    """Samples completions of each prompt, independently, from the model as it is.

    Neither reads nor changes torch's global random state: the same seed gives the same samples.

    Arguments:
        model: A causal language model; sampled without dropout.
        tokenizer: Its tokenizer.
        prompts: Texts or conversations; the completions of an empty text are whole texts.
        samples: Completions of each prompt.
        max_new_tokens: The tokens after which a completion is cut.
        batch_size: Completions in a batch.
        seed: The seed.
        temperature: Divides the logits of the sampling; ``log_prob`` stays that of the plain model.

    Returns:
        For each prompt its completions.

    Raises:
        ValueError: If a number is out of range, or a prompt and its completion exceed the model's
            context.
    """
    if samples < 1 or temperature <= 0:
        raise ValueError(f"samples {samples} must be at least 1, temperature {temperature} above 0")
    ids = prompt_ids(tokenizer, prompts)
    require_room(model, prompts, ids, max_new_tokens)
    ends = end_ids(model, tokenizer)
    generator = torch.Generator(model.device).manual_seed(seed)
    results: list[list[Completion]] = [[] for _ in prompts]
    with inference(model):
        for rows in by_length(ids, max(1, batch_size // samples)):
            decoder = Decoder(model, [ids[row] for row in rows], copies=samples)
            sequences = _sample(decoder, max_new_tokens, ends, generator, temperature)
            for i, (tokens, log_prob) in enumerate(sequences):
                row = rows[i // samples]
                results[row].append(decode_completion(tokenizer, ids[row], tokens, log_prob, ends))
    return results


def _sample(
    decoder: Decoder,
    max_new_tokens: int,
    ends: set[int],
    generator: torch.Generator,
    temperature: float,
) -> list[tuple[list[int], float]]:
    """Returns the sampled ids of each sequence and their log π."""
    rows = list(range(len(decoder.ids)))
    sampled: list[tuple[list[int], list[float]]] = [([], []) for _ in rows]
    for step in range(max_new_tokens):
        tokens = _sample_indices((decoder.log_probs / temperature).softmax(-1), generator)
        values = decoder.log_probs.gather(1, tokens)
        for row, token, value in zip(rows, tokens.tolist(), values.tolist(), strict=True):
            sampled[row][0].extend(token)
            sampled[row][1].extend(value)
        running = [i for i, row in enumerate(rows) if sampled[row][0][-1] not in ends]
        if not running or step + 1 == max_new_tokens:
            break
        if len(running) < len(rows):  # sequences that have ended leave the batch
            rows = [rows[i] for i in running]
            decoder.select(torch.tensor(running, device=tokens.device))
            tokens = tokens[running]
        decoder.append(tokens[:, 0])
    return [(ids, math.fsum(values)) for ids, values in sampled]


def _sample_indices(weights: Tensor, generator: torch.Generator) -> Tensor:
    """Samples an index for each row of weights (B, V); returns indices with shape (B, 1).

    It draws one uniform number a row; ``torch.multinomial`` draws one for every weight.
    """
    ends = weights.cumsum(-1, dtype=torch.float64)
    uniform = torch.rand(len(ends), 1, dtype=torch.float64, device=ends.device, generator=generator)
    # An index without weight ends where the one before it does: it is never the first beyond.
    indices = torch.searchsorted(ends, uniform * ends[:, -1:], right=True)
    return indices.clamp(max=weights.shape[-1] - 1)
