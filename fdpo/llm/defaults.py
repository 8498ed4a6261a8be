"""Arguments of the text trainer: their order, and those that follow from the others."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from trl import DPOConfig, DPOTrainer

from fdpo.llm.models import ModelSource

logger = logging.getLogger(__name__)

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


def keep_batches_whole(accelerator: Accelerator) -> None:
    """Turns ``dispatch_batches`` off, by which one process cuts batches for all.

    A batch of pairs has tensors of several lengths: it cannot be cut.
    """
    if accelerator.dispatch_batches and accelerator.is_main_process:
        logger.warning("dispatch_batches is off: batches of pairs cannot be cut for processes")
    accelerator.dataloader_config.dispatch_batches = False
