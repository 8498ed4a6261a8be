"""Arguments of the text trainer: their order, and those that follow from the others.

The policy, its reference and its tokenizer follow from the model.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from peft import PeftModel
from transformers.integrations import is_deepspeed_zero3_enabled
from trl import DPOConfig, DPOTrainer
from trl.trainer.utils import create_model_from_path

from fdpo.llm.models import ModelSource
from fdpo.runs.notes import note

TRL_ORDER = tuple(inspect.signature(DPOTrainer.__init__).parameters)[2:]
"""The arguments of TRL's trainer after ``self`` and ``model``, in its order."""


def named_arguments(positional: Sequence[Any], named: Mapping[str, Any]) -> dict[str, Any]:
    """Returns all arguments by name: the configuration alone, or TRL's in its order.

    Raises:
        TypeError: If one is given twice, or there are too many.
    """
    is_config_alone = len(positional) == 1 and isinstance(positional[0], DPOConfig)
    order = ("args",) if is_config_alone else TRL_ORDER
    if len(positional) > len(order):
        raise TypeError(f"at most {len(order)} arguments follow the model, got {len(positional)}")
    by_name = dict(zip(order, positional, strict=False))
    if twice := set(by_name) & set(named):
        raise TypeError(f"{', '.join(sorted(twice))}: given by place and by name")
    return {**by_name, **named}


def load_processing_class(model: Any, source: ModelSource) -> Any:
    """Loads the tokenizer of a model, or its processor.

    Raises:
        ValueError: If the model is an object without a path.
    """
    if not (isinstance(model, str) or has_path(model)):
        raise ValueError("processing_class: the model has no path to load a tokenizer from")
    return source.processing_class()


def has_path(model: Any) -> bool:
    """Returns whether a model names a hub id, or a folder that is still there."""
    name = model.name_or_path
    return bool(name) and (Path(name).exists() or not Path(name).is_absolute())


def requested_source(model: Any, args: DPOConfig) -> ModelSource:
    """Returns the source of a trainer's model: of its name, or of the one that a model knows."""
    options = args.model_init_kwargs or {}
    trust = options.get("trust_remote_code", args.trust_remote_code)
    if isinstance(model, str):
        return ModelSource(model, options.get("revision"), trust)
    return ModelSource(model.name_or_path, getattr(model.config, "_commit_hash", None), trust)


def policy_and_reference(
    source: ModelSource, model: Any, ref_model: Any, peft_config: Any, args: DPOConfig
) -> tuple[Any, Any]:
    """Returns the policy and the reference of a trainer, as far as TRL would load others.

    An adapter to start from is merged into its base. The reference of a model that is trained
    whole is a copy of it as it is given, not of the files that it came from.

    Arguments:
        source: The model's source.
        model: A name or a model.
        ref_model: The reference that was given.
        peft_config: The configuration of a new adapter.
        args: The trainer's options.
    """
    options = dict(args.model_init_kwargs or {})
    if isinstance(model, str) and source.base:
        model = source.whole_model(create_model_from_path, **options)
        args.model_init_kwargs = None  # TRL warns that they are ignored
        note(f"{source.name}: an adapter, merged into its base before the training")
    whole = not isinstance(model, (str, PeftModel)) and peft_config is None
    if whole and ref_model is None and not args.precompute_ref_log_probs:
        if not is_deepspeed_zero3_enabled():
            ref_model = deepcopy(model).requires_grad_(False)
    return model, ref_model


def keep_batches_whole(accelerator: Accelerator) -> None:
    """Turns ``dispatch_batches`` off, by which one process cuts batches for all.

    A batch of pairs has tensors of several lengths: it cannot be cut.
    """
    if accelerator.dispatch_batches:
        note("dispatch_batches is off: batches of pairs cannot be cut for processes")
    accelerator.dataloader_config.dispatch_batches = False
