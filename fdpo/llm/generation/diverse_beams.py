"""Diverse beam search: likely completions of a language model that differ from each other."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import NoRepeatNGramLogitsProcessor, PreTrainedModel, PreTrainedTokenizerBase

from fdpo.llm.generation.batches import by_length, inference
from fdpo.llm.generation.decoder import Decoder
from fdpo.llm.generation.tokens import decode_completion, end_ids, prompt_ids, require_room
from fdpo.preferences.generate import Completion


def diverse_beams(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    *,
    groups: int,
    beams: int = 1,
    max_new_tokens: int,
    batch_size: int = 64,
    diversity: float = 1.0,
    no_repeat_ngram_size: int = 0,
) -> list[list[Completion]]:
    """Searches for likely completions that differ: diverse beam search with Hamming diversity.

    Every step extends the groups one after the other, each by beam search on

        log π(y_t | x, y_<t) − diversity · #{beams of earlier groups that chose y_t at this step},

    summed over the completion (Vijayakumar et al. 2016, arXiv:1610.02424). A beam that has ended
    keeps its score until a better one displaces it. The search is deterministic.

    Arguments:
        model: A causal language model.
        tokenizer: Its tokenizer.
        prompts: The prompts.
        groups: Groups of beams.
        beams: Beams in each group; one makes each group greedy.
        max_new_tokens: The tokens after which a completion is cut.
        batch_size: Beams in a batch.
        diversity: The penalty, in nats.
        no_repeat_ngram_size: The length of token sequences that may not occur twice in a text; 0
            allows all.

    Returns:
        For each prompt ``groups * beams`` completions, group by group, the best first.

    Raises:
        ValueError: If a number is out of range, or a prompt and its completion exceed the model's
            context.
    """
    if min(groups, beams) < 1 or diversity < 0:
        raise ValueError(
            f"groups {groups} and beams {beams} must be at least 1, "
            f"diversity {diversity} not below 0"
        )
    if no_repeat_ngram_size < 0 or no_repeat_ngram_size == 1:
        raise ValueError(f"no_repeat_ngram_size is 0 or at least 2, not {no_repeat_ngram_size}")
    ids = prompt_ids(tokenizer, prompts)
    require_room(model, prompts, ids, max_new_tokens)
    ends = end_ids(model, tokenizer)
    results: list[list[Completion]] = [[] for _ in prompts]
    with inference(model):
        for rows in by_length(ids, max(1, batch_size // (groups * beams))):
            starts = [ids[row] for row in rows]
            search = _DiverseSearch(model, starts, groups, beams, ends, diversity)
            search.run(max_new_tokens, no_repeat_ngram_size)
            for row, ended in zip(rows, search.beams(), strict=True):
                results[row] = [
                    decode_completion(tokenizer, ids[row], tokens, log_prob, ends)
                    for tokens, log_prob in ended
                ]
    return results


class _DiverseSearch:
    """A search over P prompts in G groups of W beams; its tensors have shape (P, G, W).

    ``tokens`` has shape (P, G, W, T).
    """

    def __init__(
        self,
        model: PreTrainedModel,
        prompts: Sequence[Sequence[int]],
        groups: int,
        beams: int,
        ends: set[int],
        diversity: float,
    ) -> None:
        self.decoder = Decoder(model, prompts, copies=groups * beams)
        self.shape = (len(prompts), groups, beams)
        self.diversity = diversity
        device = model.device
        self.ends = torch.tensor(sorted(ends), dtype=torch.long, device=device)
        # All beams of a group start equal: only the first is extended, or all would stay equal.
        self.scores = torch.full(self.shape, -torch.inf, device=device)
        self.scores[..., 0] = 0
        self.log_probs = torch.zeros(self.shape, device=device)
        self.ended = torch.zeros(self.shape, dtype=torch.bool, device=device)
        self.tokens = torch.zeros(*self.shape, 0, dtype=torch.long, device=device)

    def run(self, max_new_tokens: int, no_repeat_ngram_size: int) -> None:
        """Extends all beams until they end or reach ``max_new_tokens``."""
        for step in range(max_new_tokens):
            parents, tokens = self._step(self._allowed(no_repeat_ngram_size))
            before = self.tokens.gather(2, parents[..., None].expand(*self.shape, step))
            self.tokens = torch.cat([before, tokens[..., None]], -1)
            if self.ended.all() or step + 1 == max_new_tokens:
                return
            first = torch.arange(0, tokens.numel(), self.shape[2], device=tokens.device)
            self.decoder.select((first.view(*self.shape[:2], 1) + parents).flatten())
            self.decoder.append(tokens.flatten())

    def beams(self) -> list[list[tuple[list[int], float]]]:
        """Returns the ids of each prompt's beams and their log π."""
        return [
            [
                (
                    self._cut(self.tokens[prompt, group, beam].tolist()),
                    log_probs[group, beam].item(),
                )
                for group, beam in scores.isfinite().nonzero().tolist()
            ]
            for prompt, (scores, log_probs) in enumerate(
                zip(self.scores, self.log_probs, strict=True)
            )
        ]

    def _cut(self, ids: list[int]) -> list[int]:
        ends = self.ends.tolist()
        return next((ids[: i + 1] for i, token in enumerate(ids) if token in ends), ids)

    def _allowed(self, no_repeat_ngram_size: int) -> Tensor:
        log_probs = self.decoder.log_probs
        if no_repeat_ngram_size:
            repeats = NoRepeatNGramLogitsProcessor(no_repeat_ngram_size)
            log_probs = repeats(self.decoder.ids, log_probs)
        return log_probs.view(*self.shape, -1)

    def _step(self, allowed: Tensor) -> tuple[Tensor, Tensor]:
        """Extends every group by a token, one after the other; returns parent beams and tokens."""
        log_probs = self.decoder.log_probs.view_as(allowed)
        taken = torch.zeros_like(allowed[:, 0, 0])
        parents = torch.zeros(self.shape, dtype=torch.long, device=taken.device)
        tokens = torch.zeros_like(parents)
        for g in range(self.shape[1]):
            steps = allowed[:, g] - self.diversity * taken[:, None]
            parents[:, g], tokens[:, g] = self._extend(g, steps, log_probs[:, g], taken)
        return parents, tokens

    def _extend(
        self, g: int, steps: Tensor, log_probs: Tensor, taken: Tensor
    ) -> tuple[Tensor, Tensor]:
        # An ended beam has one continuation, at no cost: another end token, which is cut off later.
        stay = torch.full_like(steps[0, 0], -torch.inf)
        stay[self.ends[:1]] = 0
        steps = torch.where(self.ended[:, g, :, None], stay, steps)
        scores, index = (self.scores[:, g, :, None] + steps).flatten(1).topk(self.shape[2])
        parents, tokens = index // steps.shape[-1], index % steps.shape[-1]
        ended = self.ended[:, g].gather(1, parents)
        gained = log_probs.flatten(1).gather(1, index).masked_fill(ended, 0)
        taken.scatter_add_(1, tokens, (~ended & scores.isfinite()).to(taken.dtype))
        self.scores[:, g] = scores
        self.log_probs[:, g] = self.log_probs[:, g].gather(1, parents) + gained
        self.ended[:, g] = ended | torch.isin(tokens, self.ends)
        return parents, tokens
