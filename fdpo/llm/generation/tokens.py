"""Tokens of prompts and completions: encoding, decoding, end tokens, room in the context."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from fdpo.llm.generation.conversations import Prompt, prompt_text
from fdpo.preferences.generate import Completion


def prompt_ids(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Prompt]) -> list[list[int]]:
    """Tokenises prompts; an empty one becomes the begin token, where every text starts."""
    start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    return [
        (tokenizer(prompt)["input_ids"] if isinstance(prompt, str) else prompt.ids(tokenizer))
        or [start]
        for prompt in prompts
    ]


def end_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Returns the tokens that end a text: the tokenizer's and the generation config's."""
    configured = getattr(model.generation_config, "eos_token_id", None)
    several = configured if isinstance(configured, list) else [configured]
    return {token for token in (tokenizer.eos_token_id, *several) if token is not None}


def decode_completion(
    tokenizer: PreTrainedTokenizerBase,
    start: list[int],
    ids: list[int],
    log_prob: float,
    ends: set[int],
) -> Completion:
    """Returns the completion of the ids that were generated after the prompt's ids ``start``."""
    truncated = ids[-1] not in ends
    text = decode_text(tokenizer, start, ids if truncated else ids[:-1])
    return Completion(text, ids, truncated, log_prob)


def decode_text(tokenizer: PreTrainedTokenizerBase, start: list[int], ids: list[int]) -> str:
    """Returns the text that ids add to the text of ``start``, without special tokens.

    Some tokenizers drop the space of a first token, so the ids are not decoded alone.
    """
    kwargs = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}
    before, whole = tokenizer.decode(start, **kwargs), tokenizer.decode(start + ids, **kwargs)
    return whole[len(before) :] if whole.startswith(before) else tokenizer.decode(ids, **kwargs)


def context_length(model: PreTrainedModel) -> int | None:
    """Returns the number of tokens that a model takes, None where it has no limit."""
    return fitting_length(model.config, None)


def fitting_length(config: PretrainedConfig, max_length: int | None) -> int | None:
    """Returns ``max_length``, or the model's context where that is shorter."""
    context = getattr(config.get_text_config(), "max_position_embeddings", None)
    return min(filter(None, (max_length, context)), default=None)


def has_room(model: PreTrainedModel, ids: list[int], max_new_tokens: int) -> bool:
    """Returns whether a prompt's tokens and its completion fit the model's context."""
    context = context_length(model)
    return context is None or len(ids) + max_new_tokens <= context


def require_room(
    model: PreTrainedModel, prompts: Sequence[Prompt], ids: list[list[int]], max_new_tokens: int
) -> None:
    """Raises `ValueError` if a prompt and its completion exceed the model's context."""
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens must be at least 1, not {max_new_tokens}")
    for number, (prompt, tokens) in enumerate(zip(prompts, ids, strict=True), 1):
        if not has_room(model, tokens, max_new_tokens):
            raise ValueError(
                f"prompt {number} ({prompt_text(prompt)[:40]!r}) has {len(tokens)} tokens; with "
                f"{max_new_tokens} new ones it exceeds the model's context of "
                f"{context_length(model)}"
            )
