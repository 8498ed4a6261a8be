"""The score of a text is that of the text alone, in any batch, for many architectures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    PreTrainedTokenizerFast,
)

from fdpo.scorers import get_scorer

WORDS = "good bad film plot scene actor".split()
VOCABULARY = ["<pad>", "<unk>", "<s>", "</s>", *WORDS]
PROMPTS = ["good ", "", "bad film plot good ", "film "]
COMPLETIONS = ["film", "plot plot good bad film actor", "bad", "good good"]

SMALL = {
    "vocab_size": len(VOCABULARY), "hidden_size": 16, "intermediate_size": 16,
    "num_hidden_layers": 2, "num_attention_heads": 2, "num_labels": 1, "bos_token_id": 2,
    "eos_token_id": 3, "pad_token_id": 0, "initializer_range": 0.5,
}  # fmt: skip
GROUPED = {"num_key_value_heads": 1, "head_dim": 8}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "gpt2": {"n_embd": 16, "n_layer": 2, "n_head": 2},
    "gpt_neox": {},
    "llama": GROUPED,
    "qwen3": GROUPED,
    "mistral": GROUPED,
    "gemma": GROUPED,
    "opt": {"ffn_dim": 16, "word_embed_proj_dim": 16, "init_std": 0.5},
    "bloom": {},
    "falcon": {"alibi": True, "new_decoder_architecture": False},
    "bert": {},
    "roberta": {},
    "xlm-roberta": {},
    "mpnet": {},
    "distilbert": {"dim": 16, "hidden_dim": 16, "n_layers": 2, "n_heads": 2},
    "deberta-v2": {"relative_attention": True, "pos_att_type": ["c2p", "p2c"]},
    "modernbert": {"cls_token_id": 2, "sep_token_id": 3},
    "electra": {"embedding_size": 16},
    "albert": {"embedding_size": 16},
    "xlnet": {"d_model": 16, "n_layer": 2, "n_head": 2, "d_inner": 16},
    "fnet": {},
}
DECODERS = list(ARCHITECTURES)[:9]


def reward_model(folder: Path, kind: str, **changes: Any) -> tuple[str, Any]:
    """Saves an untrained reward model with words as tokens; returns its name and the model."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **{**SMALL, **ARCHITECTURES[kind]})
    for name, value in changes.items():
        setattr(config, name, value)
    model = AutoModelForSequenceClassification.from_config(config).eval()
    model.save_pretrained(folder)
    return save_tokenizer(folder), model


def save_tokenizer(folder: Path, **options: Any) -> str:
    words = Tokenizer(models.WordLevel({w: i for i, w in enumerate(VOCABULARY)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", bos_token="<s>", eos_token="</s>", **options
    )
    tokenizer.save_pretrained(folder)
    return str(folder)


def alone(model: Any, texts: list[str]) -> torch.Tensor:
    rows = [[VOCABULARY.index(word) for word in text.split()] for text in texts]
    with torch.no_grad():
        return torch.stack([model(torch.tensor([row])).logits[0, 0] for row in rows])


def require_scores_of_texts_alone(name: str, model: Any) -> None:
    expected = alone(model, [a + b for a, b in zip(PROMPTS, COMPLETIONS, strict=True)])
    assert expected.std() > 1e-3
    for batch_size in (1, 3, 64):
        scores = torch.tensor(get_scorer(name, batch_size=batch_size)(PROMPTS, COMPLETIONS))
        torch.testing.assert_close(scores, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_a_score_is_that_of_the_text_alone(tmp_path: Path, kind: str) -> None:
    require_scores_of_texts_alone(*reward_model(tmp_path, kind))


@pytest.mark.parametrize("pad_token_id", [None, 3, 5, -1])
@pytest.mark.parametrize("kind", [*DECODERS, "bert", "distilbert"])
def test_the_configuration_has_another_padding_token(
    tmp_path: Path, kind: str, pad_token_id: int | None
) -> None:
    """Another than the tokenizer's (5 is a word of the texts), none, or one that is no token."""
    name, model = reward_model(tmp_path, kind)
    model.config.pad_token_id = pad_token_id
    model.config.save_pretrained(tmp_path)
    require_scores_of_texts_alone(name, model)


@pytest.mark.parametrize("kind", ["roberta", "xlm-roberta", "mpnet"])
def test_positions_that_begin_behind_the_padding_token(tmp_path: Path, kind: str) -> None:
    name, model = reward_model(tmp_path, kind, max_position_embeddings=8, pad_token_id=1)
    long = " ".join(WORDS * 3)
    [expected] = alone(model, [" ".join((WORDS * 3)[:6])])
    with pytest.warns(UserWarning, match=r"1 of 2 texts have more than 6 tokens \(up to 18\): th"):
        scores = get_scorer(name)(["", ""], ["good", long])
    assert scores[1] == pytest.approx(expected.item(), rel=1e-4)


@pytest.mark.parametrize("kind", ["bloom", "falcon", "llama", "xlnet"])
def test_a_context_without_a_limit(tmp_path: Path, kind: str) -> None:
    """The tokenizer's limit is 1e30 where it has none."""
    name, model = reward_model(tmp_path, kind)
    long = " ".join(WORDS * 20)
    [score] = get_scorer(name)([""], [long])
    assert score == pytest.approx(alone(model, [long]).item(), rel=1e-4, abs=1e-5)


TEMPLATE = (
    "{% for m in messages %}{% if loop.first and m.role == 'assistant' %}"
    "{{ raise_exception('the user speaks first') }}{% endif %}"
    "{{ '<s> ' if m.role == 'user' else '</s> ' }}{{ m.content.strip() }} {% endfor %}"
)


def test_a_chat_template_renders_the_turns(tmp_path: Path) -> None:
    name, model = reward_model(tmp_path, "llama", max_position_embeddings=12)
    save_tokenizer(tmp_path, chat_template=TEMPLATE)
    chat = [
        {"role": "user", "content": "film"},
        {"role": "assistant", "content": "bad"},
        {"role": "user", "content": "plot"},
    ]
    scorer = get_scorer(name)
    texts = ["<s> good film </s> plot", "<s> film </s> bad <s> plot </s> good scene"]
    scores = torch.tensor(scorer(["good film ", chat], [" plot", "good scene"]))  # type: ignore[list-item]
    torch.testing.assert_close(scores, alone(model, texts), rtol=1e-4, atol=1e-5)
    long = " ".join(WORDS * 3)  # the end of the completion counts, not the beginning of the prompt
    with pytest.warns(UserWarning, match="more than 12 tokens .*: their beginnings do not count"):
        [score] = scorer(["good"], [long])
    assert score == pytest.approx(alone(model, [" ".join((WORDS * 3)[-12:])]).item(), rel=1e-4)
    with pytest.raises(ValueError, match="its chat template refuses: the user speaks first"):
        scorer([[{"role": "assistant", "content": "a"}]], ["good"])  # type: ignore[list-item]


def test_messages_are_paragraphs_without_a_chat_template(tmp_path: Path) -> None:
    name, model = reward_model(tmp_path, "bert")
    chat = [{"role": "user", "content": "film"}, {"role": "assistant", "content": "bad"}]
    [score] = get_scorer(name)([chat], ["good"])  # type: ignore[list-item]
    assert score == pytest.approx(alone(model, ["film bad good"]).item(), rel=1e-4)
