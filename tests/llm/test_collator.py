"""Batches of pairs: completions run once, packed rows, equal log-probabilities."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from accelerate.utils import find_batch_size
from transformers import MistralConfig, PreTrainedModel
from trl.trainer.utils import add_fused_lm_head

from fdpo.llm.collator import PairBatch, PairCollator
from fdpo.llm.forward import (
    packed_mask,
    packing_obstacle,
    sum_by_completion,
    token_log_probs,
)
from tests.llm import architectures
from tests.llm.architectures import HEADS, SMALL
from tests.llm.architectures import SHAREABLE as CONFIGS


def make_model(config: Any) -> PreTrainedModel:
    model = architectures.make_model(config)
    add_fused_lm_head(model)
    return model


def group(n: int = 4, prompt: int = 5, seed: int = 0) -> list[dict[str, Any]]:
    """Returns all pairs of n completions, of different lengths, of one prompt."""
    generator = torch.Generator().manual_seed(seed)

    def tokens(length: int) -> list[int]:
        return torch.randint(1, 50, (length,), generator=generator).tolist()

    start, completions = tokens(prompt), [tokens(3 + 2 * i) for i in range(n)]
    return [
        {"prompt_ids": start, "chosen_ids": completions[i], "rejected_ids": completions[j]}
        for i in range(n)
        for j in range(i + 1, n)
    ]


def plain_log_probs(model: Any, prompt: list[int], completion: list[int]) -> torch.Tensor:
    """Sums the log-probabilities of a completion's tokens in a row of its own, by the formula."""
    ids = torch.tensor([prompt + completion])
    log_probs = model(ids).logits[0, :-1].log_softmax(1)
    return log_probs.gather(1, ids[0, 1:, None])[max(len(prompt), 1) - 1 :].sum()


def pair_log_probs(model: Any, batch: PairBatch) -> torch.Tensor:
    """Returns log-probabilities of chosen and rejected completions, with shape (P, 2)."""
    outputs = token_log_probs(model, batch, model)
    return sum_by_completion(outputs.log_probs, batch["num_targets"])[batch["pairs"]]


@pytest.mark.parametrize("packing", ["never", "always"])
@pytest.mark.parametrize("name", CONFIGS)
def test_a_batch_has_the_log_probabilities_of_single_texts(name: str, packing: Any) -> None:
    model = make_model(CONFIGS[name])
    rows = group() + group(3, prompt=1, seed=1) + group(2, prompt=9, seed=2)
    batch = PairCollator(pad_token_id=0, packing=packing)(rows)
    assert ("segments" in batch) == (packing == "always")
    assert len(batch["num_targets"]) == 4 + 3 + 2 and len(batch["pairs"]) == 6 + 3 + 1
    with torch.no_grad():
        for row, sides in zip(rows, pair_log_probs(model, batch), strict=True):
            for name, value in zip(("chosen_ids", "rejected_ids"), sides, strict=True):
                expected = plain_log_probs(model, row["prompt_ids"], row[name])
                torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-5)


def test_gradients_do_not_depend_on_the_rows() -> None:
    gradients = []
    packings: tuple[Any, ...] = ("never", "always")
    for packing in packings:
        model = make_model(CONFIGS["gpt2"])
        log_probs = pair_log_probs(model, PairCollator(pad_token_id=0, packing=packing)(group()))
        torch.nn.functional.logsigmoid(log_probs[:, 0] - log_probs[:, 1]).sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    error = (gradients[0] - gradients[1]).norm() / gradients[0].norm()
    assert error < 1e-5


def test_completions_attend_to_their_prompt_and_themselves() -> None:
    mask = packed_mask(torch.tensor([[0, 0, 1, 1, 2, 2, -1]]))[0, 0].int().tolist()
    assert mask == [
        [1, 0, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0, 0],
        [1, 1, 1, 1, 0, 0, 0],
        [1, 1, 0, 0, 1, 0, 0],
        [1, 1, 0, 0, 1, 1, 0],
        [1, 1, 0, 0, 0, 0, 1],
    ]


def test_rows_are_packed_where_that_is_less_work() -> None:
    """A long prompt is run once; completions of one word of prompt and of like length are not."""
    collator = PairCollator(pad_token_id=0, packing="cheaper", hidden_size=16)
    assert "segments" in collator(group(4, prompt=40))
    alike = {"prompt_ids": [1], "chosen_ids": [2] * 9, "rejected_ids": [3] * 9}
    assert "segments" not in collator([alike])
    assert "segments" not in PairCollator(pad_token_id=0)(group(4, prompt=40))


@pytest.mark.parametrize(
    ("mode", "remainder"),
    [("keep_start", ([1, 2, 3, 4], [5, 6])), ("keep_end", ([3, 4], [5, 6, 7, 8]))],
)
def test_long_texts_are_truncated_as_by_trl(
    mode: str, remainder: tuple[list[int], list[int]]
) -> None:
    row = {"prompt_ids": [1, 2, 3, 4], "chosen_ids": [5, 6, 7, 8], "rejected_ids": [9]}
    batch = PairCollator(pad_token_id=0, max_length=6, truncation_mode=mode)([row])
    prompt, completion = remainder
    assert batch["input_ids"][0].tolist() == prompt + completion
    assert batch["targets"].tolist() == [*completion, 9]


def test_a_completion_without_prompt_starts_at_its_second_token() -> None:
    row = {"prompt_ids": [], "chosen_ids": [5, 6], "rejected_ids": [7]}
    batch = PairCollator(pad_token_id=0, packing="always")([row])
    assert batch["num_targets"].tolist() == [1, 0] and batch["targets"].tolist() == [6]
    assert sum_by_completion(torch.ones(1, 1), batch["num_targets"]).tolist() == [1, 0]


def test_keys_tell_texts_apart() -> None:
    rows = [
        {"prompt_ids": [1, 2], "chosen_ids": [3], "rejected_ids": [4]},
        {"prompt_ids": [1], "chosen_ids": [2, 3], "rejected_ids": [2, 4]},
    ]
    keys = {tuple(key) for key in PairCollator(pad_token_id=0)(rows)["keys"].tolist()}
    assert len(keys) == 4


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (CONFIGS["gpt2"], ""),
        (MistralConfig(**SMALL, **HEADS, num_key_value_heads=1, sliding_window=8), "sliding"),
        (CONFIGS["gpt2"], "eager"),
    ],
    ids=["gpt2", "mistral", "eager"],
)  # fmt: skip
def test_obstacles_to_packing(config: Any, reason: str) -> None:
    model = make_model(config)
    if reason == "eager":
        model.set_attn_implementation("eager")
    obstacle = packing_obstacle(model)
    assert reason in obstacle and bool(reason) == bool(obstacle)


def test_a_model_that_ignores_the_mask_is_detected(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model(CONFIGS["gpt2"])
    backbone = model.base_model
    forward = backbone.forward
    monkeypatch.setattr(backbone, "forward", lambda **k: forward(**{**k, "attention_mask": None}))
    assert "does not follow the mask" in packing_obstacle(model)


def test_the_cost_of_packing_needs_the_width() -> None:
    with pytest.raises(ValueError, match="needs the hidden_size"):
        PairCollator(pad_token_id=0, packing="cheaper")


PACKED = {"position_ids", "segments"}


def test_a_batch_is_a_pair_batch_whose_size_is_that_of_its_pairs() -> None:
    """Accelerate reads the size from the first field."""
    rows = [{**row, "pair_index": i} for i, row in enumerate(group())]
    packings: tuple[Any, ...] = ("never", "always")
    for packing in packings:
        batch = PairCollator(pad_token_id=0, packing=packing)(rows)
        fields = PairBatch.__annotations__.keys() - {"ref_chosen_logps", "ref_rejected_logps"}
        assert batch.keys() == (fields if packing == "always" else fields - PACKED)
        assert find_batch_size(batch) == len(rows) == len(batch["pair_index"])
