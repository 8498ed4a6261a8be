"""Growing sequences: each as if it were alone, though prompts are run once for all copies."""

from __future__ import annotations

import pytest
import torch
from transformers import PreTrainedModel

from fdpo.llm.generation.batches import inference
from fdpo.llm.generation.decoder import Decoder, PreallocatedCacheLayer
from tests.llm.architectures import ALL, make_model

PROMPTS = [[5, 9, 2, 7], [3], [8, 1, 4, 4, 6, 2]]
COPIES = 3


@pytest.fixture(params=ALL)
def model(request: pytest.FixtureRequest) -> PreTrainedModel:
    return make_model(ALL[request.param])


def tokens(n: int, seed: int) -> torch.Tensor:
    return torch.randint(50, (n,), generator=torch.Generator().manual_seed(seed))


def alone(model: PreTrainedModel, ids: list[int]) -> torch.Tensor:
    """The log-probabilities after ids, from one forward pass without a cache."""
    return model(torch.tensor([ids]), use_cache=False).logits[0, -1].float().log_softmax(-1)


def require_equal(decoder: Decoder, sequences: list[list[int]]) -> None:
    expected = torch.stack([alone(decoder.model, ids) for ids in sequences])
    assert torch.allclose(decoder.log_probs, expected, atol=1e-5)


def test_every_copy_grows_as_if_it_were_alone(
    model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PreallocatedCacheLayer, "ROOM", 2)  # so that buffers grow several times
    sequences = [[*ids] for ids in PROMPTS for _ in range(COPIES)]
    with inference(model):
        decoder = Decoder(model, PROMPTS, copies=COPIES)
        require_equal(decoder, sequences)
        for step in range(6):
            if step == 2:  # some leave, one continues twice
                rows = torch.tensor([8, 0, 4, 4, 5])
                decoder.select(rows)
                sequences = [[*sequences[row]] for row in rows]
            added = tokens(len(sequences), step)
            decoder.append(added)
            for ids, token in zip(sequences, added.tolist(), strict=True):
                ids.append(token)
            require_equal(decoder, sequences)


def test_a_prompt_is_run_once_for_its_copies(model: PreTrainedModel) -> None:
    shapes = []
    handle = model.get_input_embeddings().register_forward_pre_hook(
        lambda _, inputs: shapes.append(tuple(inputs[0].shape))
    )
    with inference(model):
        decoder = Decoder(model, PROMPTS, copies=COPIES)
        decoder.append(tokens(len(PROMPTS) * COPIES, 0))
    handle.remove()
    recurrent = model.config.model_type == "mamba"  # has no key-value cache: it reads all again
    assert shapes == [(3, 6), (9, 7 if recurrent else 1)]


def test_a_token_joins_those_before_it_in_place() -> None:
    model = make_model(ALL["gpt2"])
    places = []
    with inference(model):
        decoder = Decoder(model, PROMPTS, copies=COPIES)
        for step in range(PreallocatedCacheLayer.ROOM):
            decoder.append(tokens(len(PROMPTS) * COPIES, step))
            places.append(decoder.cache.layers[0].keys.data_ptr())
    assert len(set(places)) == 1
