"""How different the samples of a model are, each measure with its standard error over prompts.

All of them are measured among the samples of one prompt and depend on how many there are: compare
models at the same number. Distinct-n and self-BLEU look at words, the Vendi score at embeddings.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import normalize

from fdpo.estimators.estimate import Estimate, mean


def distinct_n(completions: Sequence[Sequence[str]], n: int = 2, budget: int = 20) -> Estimate:
    """Estimates the share of distinct word n-grams among the samples of a prompt.

    The share falls with length, so each completion counts with at most its first ``budget`` words.
    Prompts whose samples hold no n-gram are left out.

    Arguments:
        completions: For each prompt, its samples.
        n: The length of an n-gram, in words.
        budget: How many words of a completion count.
    """
    shares = []
    for samples in completions:
        words = [sample.lower().split()[:budget] for sample in samples]
        grams = [tuple(w[i : i + n]) for w in words for i in range(len(w) - n + 1)]
        if grams:
            shares.append(len(set(grams)) / len(grams))
    return mean(torch.tensor(shares))


def self_bleu(completions: Sequence[Sequence[str]]) -> Estimate:
    """Estimates the BLEU of a sample against the other samples of its prompt: 0 to 100, all equal.

    Sentence BLEU of sacrebleu with its defaults, with as many orders of n-grams as a sample has
    (``effective_order``). Samples without a word are left out, and prompts with a single one.
    (Zhu et al., 2018, https://arxiv.org/abs/1802.01886)

    Arguments:
        completions: For each prompt, its samples.
    """
    from sacrebleu.metrics import BLEU

    bleu = BLEU(effective_order=True)
    means = []
    for samples in completions:
        texts = [sample for sample in samples if sample.strip()]
        scores = [
            bleu.sentence_score(text, texts[:i] + texts[i + 1 :]).score
            for i, text in enumerate(texts)
            if len(texts) > 1
        ]
        if scores:
            means.append(sum(scores) / len(scores))
    return mean(torch.tensor(means))


def vendi_score(features: Tensor) -> Estimate:
    r"""Estimates the effective number of different samples among the :math:`S` of a prompt.

    .. math::
        \exp\Big(-\sum_i \lambda_i \log\lambda_i\Big), \qquad
        \lambda_i \text{ the eigenvalues of } K/S, \quad K_{ij} = \cos(x_i, x_j):

    1 where all point the same way, :math:`S` where all are orthogonal. Embeddings of one model
    often share a large part; subtract a centre, the same for all that are compared.
    (Friedman and Dieng, 2023, https://arxiv.org/abs/2210.02410)

    Arguments:
        features: Embeddings :math:`x` of samples, with shape :math:`(P, S, D)`.
    """
    if features.ndim != 3 or not features.numel():
        shape = tuple(features.shape)
        raise ValueError(f"features must have shape (prompts, samples, dimensions), got {shape}")
    unit = normalize(features.double(), dim=-1)
    eigenvalues = torch.linalg.eigvalsh(unit @ unit.mT / features.shape[1]).clamp(min=0)
    return mean(torch.special.entr(eigenvalues).sum(-1).exp())
