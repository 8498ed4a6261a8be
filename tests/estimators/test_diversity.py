"""Measures of diversity against sacrebleu, scipy and texts of known diversity."""

import math

import pytest
import sacrebleu
import scipy
import torch

from fdpo.estimators import diversity

TEXTS = [
    ["the film was truly great and I loved it", "the film was truly bad and I hated it", "so dull"],
    ["a fine story", "a fine story", "a fine story of a great, great man"],
]


@pytest.mark.parametrize(
    ("samples", "share"),
    [
        (["a b c", "a b c"], 0.5),
        (["a b c", "d e f"], 1.0),
        (["A b", "a B"], 0.5),
        (["a a a a"], 1 / 3),
    ],
)
def test_distinct_2_counts_word_pairs_of_all_samples(samples: list[str], share: float) -> None:
    assert diversity.distinct_n([samples]).value == pytest.approx(share)


def test_distinct_2_ignores_words_beyond_the_budget_and_empty_prompts() -> None:
    long = ["x y " + "a b " * 50, "x y"]
    assert diversity.distinct_n([long, ["one"]], budget=2).value == pytest.approx(0.5)
    assert math.isnan(diversity.distinct_n([["one"]]).value)


def test_self_bleu_is_the_sentence_bleu_of_sacrebleu() -> None:
    means = []
    for samples in TEXTS:
        scores = [
            sacrebleu.sentence_bleu(text, [s for j, s in enumerate(samples) if j != i]).score
            for i, text in enumerate(samples)
        ]
        means.append(sum(scores) / len(scores))
    result = diversity.self_bleu(TEXTS)
    assert result[:2] == pytest.approx((sum(means) / 2, scipy.stats.sem(means)))


def test_self_bleu_is_between_0_and_100_and_leaves_out_empty_and_single_samples() -> None:
    assert diversity.self_bleu([["a b c d e"] * 3]).value == pytest.approx(100)
    assert diversity.self_bleu([["a b c d e", "v w x y z"]]).value < 10
    with_empty = [[*TEXTS[0], "", " \n"], ["alone", ""], ["alone"]]
    assert diversity.self_bleu(with_empty).value == diversity.self_bleu(TEXTS[:1]).value
    assert math.isnan(diversity.self_bleu([["alone"]]).value)


def test_vendi_score_against_scipy() -> None:
    features = torch.randn(5, 7, 3, generator=torch.Generator().manual_seed(0)).double()
    scores = []
    for rows in features.numpy():
        cosines = 1 - scipy.spatial.distance.cdist(rows, rows, "cosine")
        eigenvalues = scipy.linalg.eigvalsh(cosines / len(rows)).clip(0)
        scores.append(math.exp(scipy.stats.entropy(eigenvalues / eigenvalues.sum())))
    result = diversity.vendi_score(features)
    assert result[:2] == pytest.approx((sum(scores) / 5, scipy.stats.sem(scores)))


def test_vendi_score_counts_directions() -> None:
    axes = torch.eye(4)
    for rows, count in [(axes, 4), (axes[[0, 0, 1, 1]], 2), (3 * axes[[2, 2, 2, 2]], 1)]:
        assert diversity.vendi_score(rows[None]).value == pytest.approx(count)
    with pytest.raises(ValueError, match=r"shape \(prompts, samples, dimensions\), got \(4, 4\)"):
        diversity.vendi_score(axes)
