"""Evaluation on held-out prompts: reward, divergence from the reference, diversity.

Both models are sampled as they are (temperature 1, nothing filtered) from the same prompts with the
same seed. Each model's samples are scored under the other by the ids that were sampled, so that the
divergences are those of the policy, not of a filtered or re-tokenised relative.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from fdpo import estimators
from fdpo.divergences.members import Divergence, get_divergence
from fdpo.estimators import diversity
from fdpo.estimators.estimate import Estimate
from fdpo.llm.comparison import Comparison
from fdpo.llm.generation.conversations import Prompt, prompt_text
from fdpo.llm.generation.prompts import sample_prompts
from fdpo.llm.generation.reference_samples import reference_samples
from fdpo.llm.generation.sampling import sample
from fdpo.llm.generation.scores import PairedScores, completion_embeddings, completion_kls
from fdpo.llm.generation.tokens import prompt_ids
from fdpo.preferences.generate import Completion
from fdpo.runs.cache import OFF
from fdpo.scorers import Scorer

# Far from the small numbers that people give to --seed: no training samples with it.
HELD_OUT_SEED = 1_000_003


def held_out_prompts(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    count: int,
    *,
    seed: int = HELD_OUT_SEED,
    exclude: Collection[str] = (),
) -> list[str]:
    """Samples prompts from a model with a seed that no training uses, and none of ``exclude``."""
    prompts = sample_prompts(model, tokenizer, count + len(exclude), seed=seed) if count else []
    return [prompt for prompt in prompts if prompt not in exclude][:count]


@dataclass(frozen=True)
class SamplingConfig:
    """Sampling of both models in a comparison.

    Arguments:
        samples: Samples of each prompt.
        max_new_tokens: The longest completion, in tokens.
        batch_size: Samples in one batch.
        seed: The seed of the sampling.
    """

    samples: int = 4
    max_new_tokens: int = 48
    batch_size: int = 64
    seed: int = 0


def compare(
    policy: PreTrainedModel,
    reference: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    scorers: Mapping[str, Scorer],
    sampling: SamplingConfig = SamplingConfig(),
    *,
    divergence: Divergence | None = None,
    embed: bool = False,
    reference_cache: str | None = OFF,
) -> Comparison:
    """Samples both models from the same prompts and measures them.

    Divergences of the policy from the reference are those of whole completions, in nats; with
    ``_rao_blackwell``, summed over tokens and their full vocabulary. ``*_mean_weight`` is 1 where
    the samples of one model cover the other (see `fdpo.estimators.divergences.mean_weight`).

    Arguments:
        policy: The trained model.
        reference: The model it started from.
        tokenizer: The tokenizer of both.
        prompts: The prompts: texts, or conversations that the chat template renders.
        scorers: Rewards by name; each takes the texts of prompts and completions, and returns a
            number for each.
        sampling: The sampling of both models.
        divergence: One more divergence to measure, as ``trained_divergence``.
        embed: Whether to measure the Vendi score too, by the reference's hidden states about
            their mean over its own samples.
        reference_cache: The folder that caches the reference's samples for later comparisons, None
            for the one in the user's cache folder, ``off`` for no cache.
    """
    options, batch_size = asdict(sampling), sampling.batch_size
    completions = reference_samples(
        reference, tokenizer, prompts, folder=reference_cache, **options
    )
    texts = list(map(prompt_text, prompts))
    before = _Samples("reference", texts, completions)
    after = _Samples("policy", texts, sample(policy, tokenizer, prompts, **options))
    ids = prompt_ids(tokenizer, prompts)
    before.score(reference, policy, ids, batch_size, scorers)
    after.score(policy, reference, ids, batch_size, scorers)
    metrics = {"before": before.metrics(), "after": after.metrics()}
    if embed:
        features = [
            completion_embeddings(reference, samples.flat_ids, batch_size=batch_size)
            for samples in (before, after)
        ]
        centre = features[0].mean(0)
        for name, values in zip(metrics, features, strict=True):
            centred = (values - centre).view(len(prompts), sampling.samples, -1)
            metrics[name]["vendi_score"] = diversity.vendi_score(centred)
    return Comparison(
        before=metrics["before"],
        after=metrics["after"] | _divergences(before, after, divergence),
        deviations={name: values.std().item() for name, values in before.rewards.items()},
        rows=[*before.rows(), *after.rows()],
    )


class _Samples:
    """Samples of a model with their scores, S of each of P prompts; tensors have shape (P, S).

    Arguments:
        model: ``reference`` or ``policy``.
        prompts: The texts of the prompts.
        completions: The samples.
    """

    scores: PairedScores
    rewards: dict[str, Tensor]

    def __init__(
        self, model: str, prompts: Sequence[str], completions: list[list[Completion]]
    ) -> None:
        self.model, self.prompts, self.completions = model, prompts, completions
        self.texts = [[completion.text for completion in row] for row in completions]
        self.flat_ids = [completion.ids for row in completions for completion in row]

    def score(
        self,
        model: PreTrainedModel,
        other: PreTrainedModel,
        ids: list[list[int]],
        batch_size: int,
        scorers: Mapping[str, Scorer],
    ) -> None:
        """Scores the samples under their model and under the other, and by the scorers."""
        starts = [start for start, row in zip(ids, self.completions, strict=True) for _ in row]
        scores = completion_kls(model, other, starts, self.flat_ids, batch_size=batch_size)
        self.scores = PairedScores(*(values.view(len(self.prompts), -1) for values in scores))
        repeated = [p for p, row in zip(self.prompts, self.texts, strict=True) for _ in row]
        texts = [text for row in self.texts for text in row]
        self.rewards = {
            name: torch.tensor(scorer(repeated, texts)).view(len(self.prompts), -1)
            for name, scorer in scorers.items()
        }

    @property
    def log_ratios(self) -> Tensor:
        """log π/π_ref of each sample, policy against reference."""
        sampled = [[completion.log_prob for completion in row] for row in self.completions]
        log_probs, other = torch.tensor(sampled), self.scores.other_log_probs
        return log_probs - other if self.model == "policy" else other - log_probs

    def metrics(self) -> dict[str, Estimate]:
        """Returns the metrics that depend on these samples alone."""
        metrics = {name: estimators.mean(values) for name, values in self.rewards.items()}
        metrics["entropy"] = estimators.mean(self.scores.entropies)
        metrics["distinct_2"] = diversity.distinct_n(self.texts)
        if len(self.texts[0]) > 1:
            metrics["self_bleu"] = diversity.self_bleu(self.texts)
        return metrics

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yields the samples with their scores, as rows of a file."""
        columns = {
            "log_ratio": self.log_ratios,
            "kl": self.scores.kls,
            "entropy": self.scores.entropies,
            **{f"reward/{name}": values for name, values in self.rewards.items()},
        }
        for i, prompt in enumerate(self.prompts):
            for j, text in enumerate(self.texts[i]):
                yield {
                    "model": self.model, "opening": i, "sample": j,
                    "prompt": prompt, "completion": text,
                    **{name: values[i, j].item() for name, values in columns.items()},
                }  # fmt: skip


def _divergences(
    before: _Samples, after: _Samples, trained: Divergence | None
) -> dict[str, Estimate]:
    """Estimates the policy's divergences from the reference, from samples of both."""
    base_ratios, ratios = before.log_ratios, after.log_ratios
    others = {
        "js": get_divergence("js"),
        "alpha_0.5": get_divergence("alpha", alpha=0.5),
        "jeffreys": get_divergence("jeffreys"),
    }
    if trained is not None:
        others["trained_divergence"] = trained
    return {
        "reverse_kl": estimators.reverse_kl(ratios),
        "reverse_kl_rao_blackwell": estimators.mean(after.scores.kls),
        "forward_kl": estimators.forward_kl(base_ratios),
        "forward_kl_rao_blackwell": estimators.mean(before.scores.kls),
        **{name: estimators.divergence(d, ratios, base_ratios) for name, d in others.items()},
        "policy_mean_weight": estimators.mean_weight(-ratios),
        "reference_mean_weight": estimators.mean_weight(base_ratios),
    }
