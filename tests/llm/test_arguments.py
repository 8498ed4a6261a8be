"""Arguments of the trainer in TRL's forms: order, configurations, models, collators, data."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset, IterableDataset
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2LMHeadModel
from trl import DPOConfig, DPOTrainer
from trl.trainer.dpo_trainer import DataCollatorForPreference

from fdpo.llm.collator import PairCollator
from fdpo.llm.defaults import TRL_ORDER, named_arguments
from fdpo.llm.trainer import FDPOTrainer
from fdpo.preferences.pairs import PairingConfig, make_pairs
from fdpo.preferences.schema import groups_from_rows
from tests.llm.training import LORA, config, first_batch, perturb


def plain(output_dir: Path, **kwargs: Any) -> DPOConfig:
    """Returns TRL's own configuration of a short training on a CPU."""
    options = {"per_device_train_batch_size": 4, "logging_steps": 1, "learning_rate": 1e-3}
    more: dict[str, Any] = {"save_strategy": "no", "disable_tqdm": True, "use_cpu": True}
    return DPOConfig(str(output_dir), bf16=False, **{**options, **more, **kwargs})


def first_loss(trainer: DPOTrainer) -> float:
    """Returns the loss of the first batch, away from the reference."""
    perturb(trainer.model)
    return trainer.compute_loss(trainer.model, first_batch(trainer)).item()


def test_a_configuration_of_trl_trains(tiny_model: Path, pairs: Dataset, tmp_path: Path) -> None:
    trainers = [kind(str(tiny_model), args=plain(tmp_path), train_dataset=pairs)
                for kind in (FDPOTrainer, DPOTrainer)]  # fmt: skip
    mine, theirs = map(first_loss, trainers)
    assert mine == pytest.approx(theirs, rel=1e-5)
    trainers[0].train()
    assert trainers[0].state.global_step > 0


def test_arguments_in_the_order_of_trl(tiny_model: Path, pairs: Dataset, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    reference = copy.deepcopy(model)
    perturb(reference)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    args = config(tmp_path)
    calls: tuple[tuple[tuple[Any, ...], dict[str, Any]], ...] = (
        ((reference, args), {"train_dataset": pairs, "processing_class": tokenizer}),
        ((reference,), {"args": args, "train_dataset": pairs}),
        ((reference, args, None, pairs, None, tokenizer), {}),
        ((args,), {"ref_model": reference, "train_dataset": pairs}),
    )
    for positional, named in calls:
        trainer = FDPOTrainer(copy.deepcopy(model), *positional, **named)
        assert trainer.args is args and trainer.ref_model is reference
        assert len(trainer.train_dataset) == 16
    trainer = FDPOTrainer(model, None, plain(tmp_path), train_dataset=pairs)
    assert trainer.args.loss == "sigmoid"


def test_an_argument_is_given_once(tmp_path: Path) -> None:
    args = config(tmp_path)
    with pytest.raises(TypeError, match="args: given by place and by name"):
        named_arguments((args,), {"args": args})
    with pytest.raises(TypeError, match="at most"):
        named_arguments((None,) * (len(TRL_ORDER) + 1), {})
    assert TRL_ORDER[:3] == ("ref_model", "args", "data_collator")


@pytest.mark.parametrize("path", ["", "/no/such/folder"])
@pytest.mark.parametrize("peft_config", [None, LORA], ids=["full", "lora"])
def test_a_model_without_a_path_is_its_own_reference(
    tiny_model: Path, pairs: Dataset, tmp_path: Path, peft_config: Any, path: str
) -> None:
    loaded = AutoModelForCausalLM.from_pretrained(tiny_model)
    model = GPT2LMHeadModel(copy.deepcopy(loaded.config))
    model.config._name_or_path = model.name_or_path = path
    args = config(tmp_path, max_steps=2)
    with pytest.raises(ValueError, match="^processing_class: the model has no path"):
        FDPOTrainer(model, args, train_dataset=pairs)
    trainer = FDPOTrainer(
        model, args, train_dataset=pairs, peft_config=peft_config,
        processing_class=AutoTokenizer.from_pretrained(tiny_model),
    )  # fmt: skip
    assert (trainer.ref_model is None) == (peft_config is not None)
    trainer.train()
    logged = [row for row in trainer.state.log_history if "log_ratios/chosen" in row]
    assert logged[0]["log_ratios/chosen"] == 0.0 != logged[1]["log_ratios/chosen"]


def test_padding_token_of_the_configuration(
    tiny_model: Path, pairs: Dataset, tmp_path: Path
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    token = tokenizer.convert_ids_to_tokens(7)
    with pytest.warns(FutureWarning, match="pad_token"):
        args = config(tmp_path, pad_token=token)
    trainer = FDPOTrainer(str(tiny_model), args, train_dataset=pairs)
    assert trainer.data_collator.pad_token_id == trainer.model.config.pad_token_id == 7
    with pytest.warns(FutureWarning, match="pad_token"):
        args = config(tmp_path, pad_token="<none>")
    with pytest.raises(ValueError, match="^--pad_token '<none>': the tokenizer has no such token"):
        FDPOTrainer(str(tiny_model), args, train_dataset=pairs)


@pytest.mark.parametrize("precompute", [False, True], ids=["", "precompute"])
def test_a_collator_of_trl_gives_the_same_losses(
    tiny_model: Path, pairs: Dataset, tmp_path: Path, precompute: bool,
    recwarn: pytest.WarningsRecorder,
) -> None:  # fmt: skip
    results = []
    for collator in (None, DataCollatorForPreference(pad_token_id=0, max_length=20)):
        args = config(
            tmp_path, loss="jsd", max_length=20, sft_weight=0.1, max_steps=4, log_pairs=True,
            precompute_ref_log_probs=precompute, train_sampling_strategy="sequential",
        )  # fmt: skip
        trainer = FDPOTrainer(
            str(tiny_model), args, data_collator=collator, train_dataset=pairs, eval_dataset=pairs
        )
        trainer.train()
        metrics = trainer.evaluate()
        margins, _ = trainer.held_out_margins()
        results.append((trainer.state.log_history, metrics, margins))
    notes = [w for w in recwarn if str(w.message).startswith("prompts are not shared")]
    assert len(notes) == 1
    (mine, before, margins), (theirs, after, more) = results
    for one, other in zip(mine, theirs, strict=True):
        for name in {"loss", "rewards/margins", "entropy", "logits/chosen", "grad_norm"} & set(one):
            assert other[name] == pytest.approx(one[name], rel=1e-4, abs=1e-6), name
    assert after["eval_loss"] == pytest.approx(before["eval_loss"], rel=1e-5)
    torch.testing.assert_close(margins, more, rtol=1e-3, atol=1e-6)


def test_a_collator_that_cannot_be_used_is_refused(
    tiny_model: Path, pairs: Dataset, tmp_path: Path
) -> None:
    trainer = FDPOTrainer(
        str(tiny_model), config(tmp_path), train_dataset=pairs,
        data_collator=lambda rows: {"input_ids": torch.tensor([[1]])},
    )  # fmt: skip
    with pytest.raises(ValueError, match="^data_collator: .* completion_mask.*found input_ids"):
        trainer.train()
    with pytest.raises(ValueError, match="--shared_prompts: .*from another collator"):
        FDPOTrainer(
            str(tiny_model), config(tmp_path, shared_prompts=True), train_dataset=pairs,
            data_collator=DataCollatorForPreference(pad_token_id=0),
        )  # fmt: skip


def test_a_column_of_the_users_named_pair_index(
    tiny_model: Path, pairs: Dataset, tmp_path: Path
) -> None:
    own = pairs.add_column("pair_index", [f"no. {7 * i}" for i in range(16)])
    trainer = FDPOTrainer(
        str(tiny_model), config(tmp_path, max_steps=1), train_dataset=own, eval_dataset=own
    )
    trainer.train()
    assert trainer.train_dataset["pair_index"] == list(range(16))
    assert len(trainer.held_out_margins()[0]) == 16


@pytest.fixture
def stream(pair_rows: list[dict[str, str]]) -> IterableDataset:
    """The sixteen pairs, one at a time."""
    return IterableDataset.from_generator(lambda: iter(pair_rows))


def test_streams_train_and_evaluate_like_datasets(
    tiny_model: Path, pairs: Dataset, stream: IterableDataset, tmp_path: Path
) -> None:
    whole = FDPOTrainer(
        str(tiny_model), config(tmp_path, max_steps=2), train_dataset=pairs, eval_dataset=pairs
    )
    streamed = FDPOTrainer(
        str(tiny_model), config(tmp_path, max_steps=2), train_dataset=pairs, eval_dataset=stream
    )
    for trainer in (whole, streamed):
        trainer.train()
    (margins, prompts), (more, others) = whole.held_out_margins(), streamed.held_out_margins()
    assert prompts == others and margins.abs().min() > 0
    torch.testing.assert_close(margins, more, rtol=1e-4, atol=1e-7)
    assert streamed.evaluate()["eval_loss"] == pytest.approx(whole.evaluate()["eval_loss"])
    trainer = FDPOTrainer(
        str(tiny_model), config(tmp_path, max_steps=5, log_pairs=True), train_dataset=stream
    )
    trainer.train()
    assert trainer.state.epoch is not None and trainer.state.epoch > 1


def test_batches_are_never_cut_for_processes(
    tiny_model: Path, pairs: Dataset, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    args = config(tmp_path, max_steps=2, accelerator_config={"dispatch_batches": True})
    trainer = FDPOTrainer(str(tiny_model), args, train_dataset=pairs, eval_dataset=pairs)
    trainer.train()
    assert {str(w.message) for w in recwarn if "dispatch_batches" in str(w.message)} == {
        "dispatch_batches is off: batches of pairs cannot be cut for processes"
    }
    assert len(trainer.held_out_margins()[0]) == 16


def test_several_held_out_datasets(tiny_model: Path, pairs: Dataset, tmp_path: Path) -> None:
    both = {"first": pairs.select(range(5)), "second": pairs.select(range(5, 16))}
    args = config(tmp_path, max_steps=2)
    one = FDPOTrainer(str(tiny_model), args, train_dataset=pairs, eval_dataset=pairs)
    two = FDPOTrainer(str(tiny_model), args, train_dataset=pairs, eval_dataset=both)
    for trainer in (one, two):
        trainer.train()
    (margins, prompts), (more, others) = one.held_out_margins(), two.held_out_margins()
    assert prompts == others and len(set(more.tolist())) > 10
    torch.testing.assert_close(margins, more, rtol=1e-4, atol=1e-7)


GROUPS = [
    {"prompt": f" film {i}", "completions": [" good", " so dull", " bad"], "scores": scores}
    for i, scores in enumerate(([1.0, 0.5, 0.0], [2.0, 2.0, 2.0], [0.0, 1.0, 2.0]))
]


@pytest.mark.parametrize("streamed", [False, True], ids=["dataset", "stream"])
def test_scored_groups_wherever_pairs_may_be(
    tiny_model: Path, pairs: Dataset, tmp_path: Path, streamed: bool
) -> None:
    groups = Dataset.from_list(GROUPS)
    groups = groups.to_iterable_dataset() if streamed else groups
    expected, _ = make_pairs(groups_from_rows(GROUPS), rule="all")
    trainer = FDPOTrainer(
        str(tiny_model), config(tmp_path, max_steps=3), train_dataset=groups,
        pairing=PairingConfig(rule="all"),
    )  # fmt: skip
    rows = list(trainer.train_dataset)
    assert [(row["prompt"], row["chosen_score"], row["rejected_score"]) for row in rows] == [
        (pair.prompt, pair.chosen_score, pair.rejected_score) for pair in expected
    ]
    trainer.train()
    trainer.margins.clear()
    assert trainer.evaluate(groups)["eval_loss"] > 0
    assert len(trainer.margins) == len(expected) == 6
    assert set(trainer.evaluate({"one": groups, "two": pairs})) >= {
        "eval_one_loss", "eval_two_loss",
    }  # fmt: skip


def test_groups_of_a_stream_that_make_no_pair(tiny_model: Path, tmp_path: Path) -> None:
    def trainer(rows: list[dict[str, Any]]) -> FDPOTrainer:
        data = Dataset.from_list(rows).to_iterable_dataset()
        return FDPOTrainer(str(tiny_model), config(tmp_path, max_steps=1), train_dataset=data)

    with pytest.raises(ValueError, match="^train_dataset: no pair is left"):
        trainer([GROUPS[1]])
    with pytest.raises(ValueError, match="^train_dataset, row 1: 3 completions but 2"):
        trainer([{**GROUPS[0], "scores": [1.0, 2.0]}])


def test_our_own_collator_may_be_given(tiny_model: Path, pairs: Dataset, tmp_path: Path) -> None:
    collator = PairCollator(pad_token_id=0, max_length=9)
    trainer = FDPOTrainer(
        str(tiny_model), config(tmp_path), data_collator=collator, train_dataset=pairs
    )
    assert trainer.data_collator.max_length == 9 and "pair_index" in first_batch(trainer)
