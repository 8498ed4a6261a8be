"""The comparison of a policy with its reference, on a tiny model."""

from pathlib import Path

import pytest
import torch

from fdpo import estimators, get_divergence
from fdpo.llm.comparison import Comparison
from fdpo.llm.evaluate import SamplingConfig, compare, held_out_prompts
from fdpo.llm.generation.tokens import fitting_length
from fdpo.llm.models import (
    ModelSource,
    load_model,
    load_tokenizer,
    require_weights,
)

MODELS = ("reference", "policy")
PROMPTS = [" the film", " I", " a truly great story"] * 4


@pytest.fixture(scope="module")
def comparison(tiny_model: Path) -> Comparison:
    """A policy that prefers one word, compared with its reference."""
    tokenizer = load_tokenizer(str(tiny_model))
    policy, reference = load_model(str(tiny_model)), load_model(str(tiny_model))
    preferred = tokenizer(" great", add_special_tokens=False)["input_ids"][-1]
    bias = torch.zeros(len(tokenizer))
    bias[preferred] = 2.0
    policy.lm_head.register_forward_hook(lambda module, inputs, output: output + bias)
    return compare(
        policy,
        reference,
        tokenizer,
        PROMPTS,
        {"great": lambda prompts, texts: [float(text.count("great")) for text in texts]},
        SamplingConfig(samples=16, max_new_tokens=12, seed=1),
        divergence=get_divergence("squared_hellinger"),
        embed=True,
    )


def test_reward_and_divergences_show_the_change(comparison: Comparison) -> None:
    before, after = comparison.before, comparison.after
    assert after["great"].value - before["great"].value > 4 * after["great"].error
    assert after["reverse_kl"].value > 4 * after["reverse_kl"].error > 0
    assert 0 < after["js"].value < 2 * 0.6932
    for name in ("reverse_kl", "forward_kl"):  # two estimates of one number
        whole, tokens = after[name], after[f"{name}_rao_blackwell"]
        assert abs(whole.value - tokens.value) < 4 * (whole.error + tokens.error)
        assert tokens.error < whole.error
    assert after["jeffreys"].value == pytest.approx(
        after["reverse_kl_rao_blackwell"].value + after["forward_kl_rao_blackwell"].value, rel=0.3
    )
    assert after["trained_divergence"].value == pytest.approx(after["alpha_0.5"].value / 2)
    assert after["entropy"].value < before["entropy"].value
    assert set(comparison.metrics()) >= {
        "great",
        "great_se",
        "base_great",
        "base_great_sd",
        "js_se",
        "base_self_bleu_se",
        "reference_mean_weight_se",
    }


def test_a_policy_that_is_its_reference_has_no_divergence(tiny_model: Path) -> None:
    model, tokenizer = load_model(str(tiny_model)), load_tokenizer(str(tiny_model))
    sampling = SamplingConfig(samples=4, max_new_tokens=8, seed=0)
    same = compare(model, model, tokenizer, PROMPTS[:3], {}, sampling, embed=True)
    assert same.after["reverse_kl"].value == pytest.approx(0, abs=1e-4)
    assert same.after["js"].value == pytest.approx(0, abs=1e-4)
    for name in ("entropy", "distinct_2", "self_bleu", "vendi_score"):
        assert same.after[name] == same.before[name]
    texts = [[r["completion"] for r in same.rows if r["model"] == m] for m in MODELS]
    assert texts[0] == texts[1] and len(texts[0]) == 12


def test_metrics_follow_from_the_samples(comparison: Comparison) -> None:
    """The rows suffice to estimate everything again, as a bootstrap over prompts does."""

    def values(model: str, name: str) -> torch.Tensor:
        rows = [row for row in comparison.rows if row["model"] == model]
        places = [(row["opening"], row["sample"]) for row in rows]
        assert places == [(i, j) for i in range(len(PROMPTS)) for j in range(16)]
        assert [row["prompt"] for row in rows[::16]] == PROMPTS
        return torch.tensor([row[name] for row in rows]).view(-1, 16)

    after, before = comparison.after, comparison.before
    assert values("policy", "reward/great").mean() == pytest.approx(after["great"].value)
    assert values("reference", "entropy").mean() == pytest.approx(before["entropy"].value)
    assert values("policy", "kl").mean() == pytest.approx(after["reverse_kl_rao_blackwell"].value)
    ratios = [values(model, "log_ratio") for model in reversed(MODELS)]
    assert estimators.jensen_shannon(*ratios).value == pytest.approx(after["js"].value, rel=1e-4)


def test_table_and_samples_show_both_sides(comparison: Comparison) -> None:
    lines = comparison.table().splitlines()
    assert lines[0].split() == ["before", "after"]
    names = list(comparison.after)
    assert [line.split()[0] for line in lines[1 : len(names) + 1]] == names
    warned = {line.split()[1].rstrip(":") for line in lines[len(names) + 1 :]}
    assert warned == set(comparison.warnings()) and "js" not in warned
    assert comparison.samples(2).count("- before: ") == 2


def test_held_out_prompts_avoid_those_of_training(tiny_model: Path) -> None:
    model, tokenizer = load_model(str(tiny_model)), load_tokenizer(str(tiny_model))
    first = held_out_prompts(model, tokenizer, 4)
    assert first == held_out_prompts(model, tokenizer, 4)
    assert not set(first[:2]) & set(held_out_prompts(model, tokenizer, 4, exclude=first[:2]))


def test_faults_of_model_folders(tmp_path: Path, tiny_model: Path) -> None:
    with pytest.raises(ValueError, match="without config.json is no model"):
        require_weights(str(tmp_path))
    (tmp_path / "config.json").write_text((tiny_model / "config.json").read_text())
    with pytest.raises(ValueError, match="no weights in this folder"):
        require_weights(str(tmp_path))
    with pytest.raises(ValueError, match="no such folder"):
        require_weights("./nowhere")
    assert fitting_length(ModelSource(str(tiny_model)).config(), 1024) == 64
    assert fitting_length(ModelSource(str(tiny_model)).config(), 32) == 32
