"""Completions that were sampled are trained on with the tokens that were sampled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from fdpo.llm.config import FDPOConfig
from fdpo.llm.data import count_shortened_prompts, with_sampled_tokens
from fdpo.llm.generation.sampling import sample
from fdpo.llm.generation.scores import completion_log_probs
from fdpo.llm.generation.tokens import prompt_ids
from fdpo.llm.models import load_model, load_tokenizer
from fdpo.llm.trainer import FDPOTrainer
from fdpo.preferences.generate import score_completions
from fdpo.preferences.pairs import make_pairs

PROMPTS = [" the film wa", " a truly grea", " I love"]  # each ends within a word


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> PreTrainedTokenizerBase:
    return load_tokenizer(str(tiny_model))


@pytest.fixture(scope="module")
def rows(tiny_model: Path, tokenizer: PreTrainedTokenizerBase) -> list[dict[str, Any]]:
    """Pairs of completions that the tiny model sampled."""
    model = load_model(str(tiny_model))
    completions = sample(model, tokenizer, PROMPTS, samples=4, max_new_tokens=8, seed=0)
    scores = iter(range(100))
    groups = score_completions(PROMPTS, completions, lambda _, texts: [next(scores) for _ in texts])
    pairs, _ = make_pairs(groups, "all")
    assert all(pair.chosen_token_ids for pair in pairs)
    return [pair.row() for pair in pairs]


def make_trainer(
    model: Path, rows: list[dict[str, Any]], folder: Path, **options: Any
) -> FDPOTrainer:
    args = FDPOConfig(str(folder), **options)
    return FDPOTrainer(str(model), args, train_dataset=Dataset.from_list(rows))


def test_the_trainer_uses_the_tokens_that_were_sampled(
    tiny_model: Path, tokenizer: PreTrainedTokenizerBase, rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    data = make_trainer(tiny_model, rows, tmp_path).train_dataset
    for row, tokenised in zip(rows, data, strict=True):
        assert tokenised["prompt_ids"] == prompt_ids(tokenizer, [row["prompt"]])[0]
        for side in ("chosen", "rejected"):
            assert tokenised[f"{side}_ids"] == row[f"{side}_token_ids"]
    assert count_shortened_prompts(data, tokenizer) == 0


def test_precomputed_reference_log_probs_are_those_of_the_sampled_tokens(
    tiny_model: Path, tokenizer: PreTrainedTokenizerBase, rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    data = make_trainer(tiny_model, rows, tmp_path, precompute_ref_log_probs=True).train_dataset
    starts = prompt_ids(tokenizer, [row["prompt"] for row in rows])
    sampled = [row["chosen_token_ids"] for row in rows]
    expected = completion_log_probs(load_model(str(tiny_model)), starts, sampled).log_probs
    assert data["ref_chosen_logps"] == pytest.approx(expected.tolist(), abs=1e-3)


def test_tokenising_again_gives_other_tokens(
    tiny_model: Path, tokenizer: PreTrainedTokenizerBase, rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    """The reason for keeping them: some text of the fixture merges or splits otherwise."""
    texts = [{k: v for k, v in row.items() if not k.endswith("_token_ids")} for row in rows]
    data = make_trainer(tiny_model, texts, tmp_path).train_dataset
    sampled = [row["chosen_token_ids"] for row in rows]
    assert any(row["chosen_ids"][: len(ids)] != ids for row, ids in zip(data, sampled, strict=True))


@pytest.mark.parametrize(
    "change",
    [
        {"chosen": " another text"},
        {"chosen_token_ids": [5, 5, 5]},
        {"chosen_token_ids": [10**6]},
        {"rejected_token_ids": None},
        {"rejected_token_ids": []},
    ],
)
def test_tokens_of_another_text_or_tokenizer_are_ignored(
    tokenizer: PreTrainedTokenizerBase, rows: list[dict[str, Any]], change: dict[str, Any]
) -> None:
    text_ids = {"prompt_ids": [1], "chosen_ids": [2], "rejected_ids": [3]}
    data = with_sampled_tokens(Dataset.from_list([{**rows[0], **text_ids, **change}]), tokenizer)
    assert {name: data[0][name] for name in text_ids} == text_ids
    unchanged = with_sampled_tokens(Dataset.from_list([{**rows[0], **text_ids}]), tokenizer)
    assert unchanged[0]["chosen_ids"] == rows[0]["chosen_token_ids"]
