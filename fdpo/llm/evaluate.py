"""What a policy does on openings it never saw, beside its reference: reward, distance, diversity.

Both models are sampled as they are (temperature 1, nothing filtered) from the same openings with
the same seed, and each model's samples are scored under the other by the ids that were drawn, so
that the divergences are those of the policy and not of a filtered or re-tokenised relative.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from fdpo import estimators
from fdpo.divergences.members import Divergence, get_divergence
from fdpo.estimators import diversity
from fdpo.estimators.estimate import Estimate, flat
from fdpo.llm.generation.reference_samples import reference_samples
from fdpo.llm.generation.sampling import (
    Completion,
    ScoredByBoth,
    completion_embeddings,
    completion_kls,
    openings,
    prompt_ids,
    sample,
)
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
    """Samples openings from a model with a seed that no training uses, and none of ``exclude``."""
    drawn = openings(model, tokenizer, count + len(exclude), seed=seed) if count else []
    return [opening for opening in drawn if opening not in exclude][:count]


@dataclass(frozen=True)
class Comparison:
    r"""What :func:`compare` found.

    Arguments:
        before: The reference's figures by name, each with its standard error over openings.
        after: The policy's, and its divergences from the reference in nats.
        deviations: The standard deviation of each of the reference's rewards over all samples.
        rows: Every sample of both models: ``model`` (``reference`` or ``policy``), the numbers of
            ``opening`` and ``sample``, ``prompt`` and ``completion``, ``log_ratio``
            (:math:`\log \pi/\pi_\text{ref}`) and ``kl`` (from the other model, over the whole
            vocabulary) in nats, ``entropy`` in nats per token, and ``reward/NAME``.
    """

    before: dict[str, Estimate]
    after: dict[str, Estimate]
    deviations: dict[str, float]
    rows: list[dict[str, Any]]

    def metrics(self) -> dict[str, float]:
        """Returns everything but the samples under flat keys, standard errors as ``*_se``."""
        deviations = {f"base_{name}_sd": value for name, value in self.deviations.items()}
        return flat(self.before, "base_") | flat(self.after) | deviations

    def warnings(self) -> dict[str, str]:
        """Returns why figures of the policy cannot be trusted, by the name of the figure."""
        return {name: estimate.warning for name, estimate in self.after.items() if estimate.warning}

    def table(self) -> str:
        """Returns the figures before and after as an aligned text table, and the warnings."""
        rows = [("", "before", "after")]
        for name, after in self.after.items():
            before = self.before.get(name)
            rows.append((name, "" if before is None else _cell(before), _cell(after)))
        widths = [max(len(row[i]) for row in rows) for i in range(3)]
        lines = [
            f"{name:<{widths[0]}}   {before:>{widths[1]}}   {after:>{widths[2]}}".rstrip()
            for name, before, after in rows
        ]
        return "\n".join([*lines, *(f"! {name}: {why}" for name, why in self.warnings().items())])

    def samples(self, count: int = 8) -> str:
        """Returns the first openings with both completions, as Markdown."""
        first = [row for row in self.rows if row["sample"] == 0 and row["opening"] < count]
        both = (
            [row for row in first if row["model"] == model] for model in ("reference", "policy")
        )
        return "\n".join(
            f"**{_inline(before['prompt'])}** …\n\n- before: {_inline(before['completion'])}\n"
            f"- after: {_inline(after['completion'])}\n"
            for before, after in zip(*both, strict=True)
        )


def compare(
    policy: PreTrainedModel,
    reference: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    scorers: Mapping[str, Scorer],
    *,
    samples: int = 4,
    max_new_tokens: int = 48,
    batch_size: int = 64,
    seed: int = 0,
    divergence: Divergence | None = None,
    embed: bool = False,
    reference_cache: str | None = OFF,
) -> Comparison:
    """Samples both models from the same openings and measures them.

    Divergences of the policy from the reference are those of whole completions, in nats; with
    ``_rao_blackwell``, summed over tokens and their full vocabulary. ``*_mean_weight`` is 1 where
    the samples of one model show what the other does (see `fdpo.estimators.divergences.mean_weight`).

    Arguments:
        policy: The trained model.
        reference: The model it started from.
        tokenizer: The tokenizer of both.
        prompts: The openings.
        scorers: Rewards by name; each takes prompts and completions and returns a number for each.
        samples: Samples per opening.
        max_new_tokens: The longest completion, in tokens.
        batch_size: Samples in one batch.
        seed: Seed of the sampling.
        divergence: One more divergence to measure, as ``trained_divergence``.
        embed: Whether to measure the Vendi score too, by the reference's hidden states about
            their mean over its own samples.
        reference_cache: Folder in which the reference's samples are kept for later comparisons,
            None for that in the user's cache folder; by default they are not.
    """
    options = dict(samples=samples, max_new_tokens=max_new_tokens, batch_size=batch_size, seed=seed)
    drawn = {
        "before": reference_samples(
            reference, tokenizer, prompts, folder=reference_cache, **options
        ),
        "after": sample(policy, tokenizer, prompts, **options),
    }
    ids = prompt_ids(tokenizer, prompts)
    base = _scored(reference, policy, drawn["before"], ids, batch_size)
    own = _scored(policy, reference, drawn["after"], ids, batch_size)
    before = _figures(base, drawn["before"], prompts, scorers)
    after = _figures(own, drawn["after"], prompts, scorers)
    if embed:
        features = {
            name: completion_embeddings(reference, _flat_ids(rows), batch_size=batch_size)
            for name, rows in drawn.items()
        }
        centre = features["before"].mean(0)
        for name, figures in (("before", before), ("after", after)):
            centred = (features[name] - centre).view(len(prompts), samples, -1)
            figures["vendi_score"] = diversity.vendi_score(centred), torch.empty(0)
    return Comparison(
        before={name: estimate for name, (estimate, _) in before.items()},
        after={name: estimate for name, (estimate, _) in after.items()}
        | _divergences(base, own, drawn, divergence),
        deviations={name: before[name][1].std().item() for name in scorers},
        rows=[
            *_rows("reference", prompts, drawn["before"], base, before, scorers),
            *_rows("policy", prompts, drawn["after"], own, after, scorers),
        ],
    )


def _rows(
    model: str,
    prompts: Sequence[str],
    drawn: list[list[Completion]],
    scored: ScoredByBoth,
    figures: Mapping[str, tuple[Estimate, Tensor]],
    rewards: Collection[str],
) -> Iterator[dict[str, Any]]:
    """Yields the samples of a model with what is known of each."""
    ratios = _log_probs(drawn) - scored.other_log_probs
    numbers = {
        "log_ratio": ratios if model == "policy" else -ratios,
        "kl": scored.kls,
        "entropy": scored.entropies,
        **{f"reward/{name}": figures[name][1] for name in rewards},
    }
    for i, (prompt, row) in enumerate(zip(prompts, drawn, strict=True)):
        for j, completion in enumerate(row):
            yield {
                "model": model, "opening": i, "sample": j,
                "prompt": prompt, "completion": completion.text,
                **{name: values[i, j].item() for name, values in numbers.items()},
            }  # fmt: skip


def _divergences(
    base: ScoredByBoth,
    own: ScoredByBoth,
    drawn: Mapping[str, list[list[Completion]]],
    trained: Divergence | None,
) -> dict[str, Estimate]:
    """Estimates the policy's divergences from the reference, from samples of both."""
    ratios = _log_probs(drawn["after"]) - own.other_log_probs
    base_ratios = base.other_log_probs - _log_probs(drawn["before"])
    others = {
        "js": get_divergence("js"),
        "alpha_0.5": get_divergence("alpha", alpha=0.5),
        "jeffreys": get_divergence("jeffreys"),
    }
    if trained is not None:
        others["trained_divergence"] = trained
    return {
        "reverse_kl": estimators.reverse_kl(ratios),
        "reverse_kl_rao_blackwell": estimators.mean(own.kls),
        "forward_kl": estimators.forward_kl(base_ratios),
        "forward_kl_rao_blackwell": estimators.mean(base.kls),
        **{name: estimators.divergence(d, ratios, base_ratios) for name, d in others.items()},
        "policy_mean_weight": estimators.mean_weight(-ratios),
        "reference_mean_weight": estimators.mean_weight(base_ratios),
    }


def _figures(
    scored: ScoredByBoth,
    drawn: list[list[Completion]],
    prompts: Sequence[str],
    scorers: Mapping[str, Scorer],
) -> dict[str, tuple[Estimate, Tensor]]:
    """Estimates what depends on one model's samples alone, with the values behind each mean."""
    texts = [[completion.text for completion in row] for row in drawn]
    repeated = [prompt for prompt, row in zip(prompts, drawn, strict=True) for _ in row]
    every = [text for row in texts for text in row]
    figures = {}
    for name, scorer in scorers.items():
        values = torch.tensor(scorer(repeated, every)).view(len(drawn), -1)
        figures[name] = estimators.mean(values), values
    figures["entropy"] = estimators.mean(scored.entropies), scored.entropies
    figures["distinct_2"] = diversity.distinct_n(texts), torch.empty(0)
    if len(drawn[0]) > 1:
        figures["self_bleu"] = diversity.self_bleu(texts), torch.empty(0)
    return figures


def _scored(
    model: PreTrainedModel,
    other: PreTrainedModel,
    drawn: list[list[Completion]],
    ids: list[list[int]],
    batch_size: int,
) -> ScoredByBoth:
    """Scores samples of a model under it and under another, everything with shape (P, S)."""
    starts = [start for start, row in zip(ids, drawn, strict=True) for _ in row]
    found = completion_kls(model, other, starts, _flat_ids(drawn), batch_size=batch_size)
    return ScoredByBoth(*(values.view(len(drawn), -1) for values in found))


def _flat_ids(drawn: list[list[Completion]]) -> list[list[int]]:
    return [completion.ids for row in drawn for completion in row]


def _log_probs(drawn: list[list[Completion]]) -> Tensor:
    return torch.tensor([[completion.log_prob for completion in row] for row in drawn])


def _cell(estimate: Estimate) -> str:
    return f"{estimate.value:.3f} ± {estimate.error:.3f}"


def _inline(text: str) -> str:
    return " ".join(text.split())
