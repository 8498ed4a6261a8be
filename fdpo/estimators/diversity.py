"""Diversity of the samples of a model: distinct-n, self-BLEU and the Vendi score.

Each measure compares the samples of one prompt and is averaged over prompts, with a standard error.
It depends on the number of samples: compare models at the same number. Distinct-n and self-BLEU
compare words, the Vendi score compares embeddings.
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
    Prompts whose samples have no n-gram are left out.

    Arguments:
        completions: The samples of each prompt.
        n: The length of an n-gram, in words.
        budget: The number of words of a completion that count.

    Example:
        >>> distinct_n([["a fine film", "a fine story"]]).value  # 3 of 4: "a fine" counts once
        0.75
    """
    shares = []
    for samples in completions:
        words = [sample.lower().split()[:budget] for sample in samples]
        grams = [tuple(w[i : i + n]) for w in words for i in range(len(w) - n + 1)]
        if grams:
            shares.append(len(set(grams)) / len(grams))
    return mean(torch.tensor(shares))


def self_bleu(completions: Sequence[Sequence[str]]) -> Estimate:
    """Estimates the BLEU of a sample against the other samples of its prompt, from 0 to 100.

    100 means that all samples are equal. It is the sentence BLEU of sacrebleu with its defaults and
    as many orders of n-grams as a sample has (``effective_order``). Samples without a word and
    prompts with a single sample are left out.
    (Zhu et al., 2018, https://arxiv.org/abs/1802.01886)

    Arguments:
        completions: The samples of each prompt.

    Example:
        >>> round(self_bleu([["a fine film", "a fine film"]]).value, 6)
        100.0
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

    It is 1 if all embeddings point the same way, :math:`S` if all are orthogonal. Embeddings of a
    model often share a large component; subtract a centre, the same for all sets to be compared.
    (Friedman and Dieng, 2023, https://arxiv.org/abs/2210.02410)

    Arguments:
        features: Embeddings :math:`x` of samples, with shape :math:`(P, S, D)`.

    Example:
        >>> vendi_score(torch.eye(4)[None]).value
        4.0
    """
    if features.ndim != 3 or not features.numel():
        shape = tuple(features.shape)
        raise ValueError(f"features must have shape (prompts, samples, dimensions), got {shape}")
    unit = normalize(features.double(), dim=-1)
    eigenvalues = torch.linalg.eigvalsh(unit @ unit.mT / features.shape[1]).clamp(min=0)
    return mean(torch.special.entr(eigenvalues).sum(-1).exp())
