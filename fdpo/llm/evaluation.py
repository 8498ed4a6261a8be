"""What a policy does on openings it never saw, beside its reference: reward, distance, diversity.

Both models are sampled as they are (temperature 1, nothing filtered) from the same openings with
the same seed, and each model's samples are scored under the other by the ids that were drawn, so
that the divergences are those of the policy and not of a filtered or re-tokenised relative.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from fdpo import estimators
from fdpo.estimators import Estimate
from fdpo.llm.generation import Completion, completion_log_probs, openings, prompt_ids, sample
from fdpo.scorers import Scorer

# Far from the small numbers that people give to --seed: no training samples with it.
HELD_OUT_SEED = 1_000_003


def held_out_openings(
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
    """What :func:`compare` found.

    Arguments:
        before: The reference's figures by name, each with its standard error over openings.
        after: The policy's, and its divergences from the reference in nats.
        deviations: The standard deviation of each of the reference's rewards over all samples.
        texts: For each opening: the opening, a completion of the reference, and one of the policy.
    """

    before: dict[str, Estimate]
    after: dict[str, Estimate]
    deviations: dict[str, float]
    texts: list[tuple[str, str, str]]

    def metrics(self) -> dict[str, float]:
        """Returns everything but the texts under flat keys, standard errors as ``*_se``."""
        flat = {}
        for prefix, figures in (("base_", self.before), ("", self.after)):
            for name, (value, error) in figures.items():
                flat[prefix + name], flat[f"{prefix}{name}_se"] = value, error
        return flat | {f"base_{name}_sd": value for name, value in self.deviations.items()}

    def table(self) -> str:
        """Returns the figures before and after as an aligned text table."""
        rows = [("", "before", "after")]
        for name, after in self.after.items():
            before = self.before.get(name)
            rows.append((name, "" if before is None else _cell(before), _cell(after)))
        widths = [max(len(row[i]) for row in rows) for i in range(3)]
        return "\n".join(
            f"{name:<{widths[0]}}   {before:>{widths[1]}}   {after:>{widths[2]}}".rstrip()
            for name, before, after in rows
        )

    def samples(self, count: int = 8) -> str:
        """Returns the first openings with both completions, as Markdown."""
        blocks = [
            f"**{_inline(prompt)}** …\n\n- before: {_inline(before)}\n- after: {_inline(after)}\n"
            for prompt, before, after in self.texts[:count]
        ]
        return "\n".join(blocks)


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
) -> Comparison:
    """Samples both models from the same openings and measures them.

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
    """
    kwargs = {"samples": samples, "max_new_tokens": max_new_tokens, "batch_size": batch_size}
    drawn = {
        name: sample(model, tokenizer, prompts, seed=seed, **kwargs)
        for name, model in (("before", reference), ("after", policy))
    }
    ids = prompt_ids(tokenizer, prompts)
    before = _figures(reference, drawn["before"], ids, prompts, scorers, batch_size)
    after = _figures(policy, drawn["after"], ids, prompts, scorers, batch_size)
    ratios = _log_probs(drawn["after"]) - _scored(reference, drawn["after"], ids, batch_size)[0]
    base_ratios = _scored(policy, drawn["before"], ids, batch_size)[0] - _log_probs(drawn["before"])
    divergences = {
        "reverse_kl": estimators.reverse_kl(ratios),
        "js": estimators.jensen_shannon(ratios, base_ratios),
    }
    return Comparison(
        before={name: estimate for name, (estimate, _) in before.items()},
        after={name: estimate for name, (estimate, _) in after.items()} | divergences,
        deviations={name: before[name][1].std().item() for name in scorers},
        texts=[
            (prompt, b[0].text, a[0].text)
            for prompt, b, a in zip(prompts, drawn["before"], drawn["after"], strict=True)
        ],
    )


def _figures(
    model: PreTrainedModel,
    drawn: list[list[Completion]],
    ids: list[list[int]],
    prompts: Sequence[str],
    scorers: Mapping[str, Scorer],
    batch_size: int,
) -> dict[str, tuple[Estimate, Tensor]]:
    """Estimates what depends on one model's samples alone, with the values behind each mean."""
    texts = [[completion.text for completion in row] for row in drawn]
    repeated = [prompt for prompt, row in zip(prompts, drawn, strict=True) for _ in row]
    flat = [text for row in texts for text in row]
    figures = {}
    for name, scorer in scorers.items():
        values = torch.tensor(scorer(repeated, flat)).view(len(drawn), -1)
        figures[name] = estimators.mean(values), values
    entropies = _scored(model, drawn, ids, batch_size)[1]
    figures["entropy"] = estimators.mean(entropies), entropies
    figures["distinct_2"] = estimators.distinct_n(texts), torch.empty(0)
    return figures


def _scored(
    model: PreTrainedModel, drawn: list[list[Completion]], ids: list[list[int]], batch_size: int
) -> tuple[Tensor, Tensor]:
    """Returns log-probs and mean token entropies of samples under a model, with shape (P, S)."""
    pairs = [(start, c.ids) for start, row in zip(ids, drawn, strict=True) for c in row]
    starts, ends = [list(column) for column in zip(*pairs, strict=True)]
    log_probs, entropies = completion_log_probs(model, starts, ends, batch_size=batch_size)
    return log_probs.view(len(drawn), -1), entropies.view(len(drawn), -1)


def _log_probs(drawn: list[list[Completion]]) -> Tensor:
    return torch.tensor([[completion.log_prob for completion in row] for row in drawn])


def _cell(estimate: Estimate) -> str:
    return f"{estimate.value:.3f} ± {estimate.error:.3f}"


def _inline(text: str) -> str:
    return " ".join(text.split())
