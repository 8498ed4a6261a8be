"""The parts of TRL 1.16 that fdpo relies on beside documented arguments."""

from __future__ import annotations

import dataclasses
import inspect

import pytest
import trl
from transformers import Trainer
from trl import DPOConfig, DPOTrainer
from trl.kernels import ChunkedLogProbFunction
from trl.trainer import utils
from trl.trainer.dpo_trainer import DataCollatorForPreference
from trl.trainer.utils import FusedCausalLMOutput

from fdpo.cli.quiet import SHORTENED_PROMPT
from fdpo.llm import chunked_head as head
from fdpo.llm.checkpoints import ResumableTrainer
from fdpo.llm.config import REFUSED
from fdpo.llm.defaults import TRL_ORDER


def test_version_is_the_pinned_one() -> None:
    assert trl.__version__.startswith("1.16.")


def test_compute_loss_is_the_extension_point() -> None:
    parameters = inspect.signature(DPOTrainer.compute_loss).parameters
    assert list(parameters) == ["self", "model", "inputs", "return_outputs", "num_items_in_batch"]


def test_reference_log_probs_come_from_a_public_method() -> None:
    parameters = inspect.signature(DPOTrainer.compute_ref_log_probs).parameters
    assert list(parameters) == ["self", "model", "inputs"]


@pytest.mark.parametrize(
    "name",
    [
        "precompute_ref_logps", "ref_model", "aux_loss_enabled", "router_aux_loss_coef",
        "_is_vision_dataset", "_is_vlm", "_tokenizer",
    ],
)  # fmt: skip
def test_trainer_sets_these_attributes(name: str) -> None:
    assert f"self.{name} = " in inspect.getsource(DPOTrainer.__init__)


def test_positional_arguments_of_the_trainer() -> None:
    assert TRL_ORDER == (
        "ref_model", "args", "data_collator", "train_dataset", "eval_dataset", "processing_class",
        "compute_metrics", "callbacks", "optimizers", "quantization_config", "peft_config",
    )  # fmt: skip


def test_accelerator_is_created_by_a_method() -> None:
    assert "self.create_accelerator_and_postprocess()" in inspect.getsource(Trainer.__init__)
    assert "self.accelerator = Accelerator(" in inspect.getsource(
        Trainer.create_accelerator_and_postprocess
    )


def test_evaluate_prepares_its_dataset_by_the_same_method() -> None:
    assert "self._prepare_dataset(" in inspect.getsource(DPOTrainer.evaluate)


def test_fused_head_returns_these_fields() -> None:
    needed = {"log_probs", "entropy", "mean_logits", "is_top1", "aux_loss"}
    assert needed <= {field.name for field in dataclasses.fields(FusedCausalLMOutput)}


def test_fused_head_looks_up_its_function_where_ours_replaces_it() -> None:
    forward = inspect.getsource(utils.add_fused_lm_head)
    assert f"{head.PATCHED}.apply(" in forward
    assert getattr(utils, head.PATCHED) is ChunkedLogProbFunction
    theirs = list(inspect.signature(ChunkedLogProbFunction.forward).parameters)[1:]  # after ctx
    assert tuple(theirs) == head.PARAMETERS
    ours = list(inspect.signature(head.TiledHead.apply).parameters)[1:]  # after self
    assert len(theirs) == len(ours) and theirs[:4] == ours[:4]


def test_collator_stacks_rejected_under_chosen() -> None:
    rows = [
        {"prompt_ids": [1, 2], "chosen_ids": [3], "rejected_ids": [4, 5]},
        {"prompt_ids": [6], "chosen_ids": [7], "rejected_ids": [8]},
    ]
    batch = DataCollatorForPreference(pad_token_id=0)(rows)
    assert batch["input_ids"].tolist() == [[1, 2, 3, 0], [6, 7, 0, 0], [1, 2, 4, 5], [6, 8, 0, 0]]
    assert batch["completion_mask"].tolist() == [
        [0, 0, 1, 0], [0, 1, 0, 0], [0, 0, 1, 1], [0, 1, 0, 0],
    ]  # fmt: skip


def test_datasets_are_prepared_by_a_method_that_keeps_other_columns() -> None:
    method = DPOTrainer._prepare_dataset
    parameters = list(inspect.signature(method).parameters)
    assert parameters == ["self", "dataset", "processing_class", "args", "dataset_name"]
    assert "remove_columns" not in inspect.getsource(method)  # the collator reads chosen_truncated


@pytest.mark.parametrize("name", REFUSED)
def test_refused_options_exist_with_these_defaults(name: str) -> None:
    field = {field.name: field for field in dataclasses.fields(DPOConfig)}[name]
    factory = field.default_factory
    default = field.default if factory is dataclasses.MISSING else factory()
    if name != "remove_unused_columns":  # whose default is ours
        assert default in REFUSED[name][0]


def test_trl_warns_of_prompts_that_merge_with_completions() -> None:
    assert SHORTENED_PROMPT in inspect.getsource(DPOTrainer._prepare_dataset)


def test_checkpoints_are_saved_and_read_by_these_methods() -> None:
    """:class:`fdpo.llm.checkpoints.ResumableTrainer` overrides them."""
    own = {name for name, value in vars(ResumableTrainer).items() if inspect.isfunction(value)}
    for name in own - {"_name_best", "get_callback"}:
        theirs, ours = (
            list(inspect.signature(getattr(kind, name)).parameters)
            for kind in (Trainer, ResumableTrainer)
        )
        assert ours[1:] == theirs[1:] or "kwargs" in ours, name
    saving = inspect.getsource(Trainer._save_checkpoint)
    assert saving.count("output_dir = os.path.join(run_dir, checkpoint_folder)") == 1
    assert "run_dir = self._get_output_dir(trial=trial)" in saving
    assert "self._push_from_checkpoint(output_dir)" in saving
