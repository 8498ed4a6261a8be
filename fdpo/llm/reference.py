"""Log-probabilities of completions under the frozen reference of a policy, cached on disk."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from peft import PeftModel
from torch import Tensor, nn
from trl.trainer.utils import use_adapter

from fdpo.llm.collator import PairBatch
from fdpo.llm.forward import sum_by_completion, token_log_probs
from fdpo.llm.generation.batches import evaluation_mode
from fdpo.runs.cache import OFF, ReferenceCache, fingerprint, model_config

CHANGES_BASE = ("pissa", "corda", "olora", "loftq", "lora_ga")
"""PEFT's initialisations that take a part of the base's weights into the adapter, or round them."""


class Reference:
    """The frozen reference of a policy.

    Its log-probabilities depend on the tokens, its weights and the precision alone, so that all
    runs with the same reference share a folder of the cache. A policy with an adapter is its own
    reference: without the adapter, in evaluation mode, and with the weights that the base had when
    this object was made, where its own weights are trained too (``LoraConfig(bias="all")``).

    Arguments:
        accelerator: The accelerator of the trainer.
        model: The reference.
        shares_policy: Whether the reference is the policy without its adapter, or with the adapter
            ``ref``, the copy of a pretrained one.
        cache_folder: The folder of all caches (:meth:`fdpo.runs.cache.ReferenceCache.open`);
            ``off`` caches nothing.

    Raises:
        ValueError: If the policy without its adapter is no longer the model that it came from.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        model: Any,
        *,
        shares_policy: bool,
        cache_folder: str | None = None,
    ) -> None:
        self.accelerator, self.model, self.shares_policy = accelerator, model, shares_policy
        self.cache_folder = OFF if has_sharded_weights(accelerator) else cache_folder
        bare = accelerator.unwrap_model(model)
        self.context = fixed_context(bare.config)
        self.base: dict[str, Tensor] = {}
        if shares_policy and isinstance(bare, PeftModel):
            require_unchanged_base(bare)
            trained = {name: p for name, p in _base_weights(bare).items() if p.requires_grad}
            if trained and has_sharded_weights(accelerator):
                raise ValueError("an adapter that trains the base's weights needs a ref_model here")
            self.base = {name: parameter.detach().clone() for name, parameter in trained.items()}

    @cached_property
    def cache(self) -> ReferenceCache:
        """The cache of the log-probabilities."""
        return ReferenceCache.open(self._cache_name, self.cache_folder)

    def log_probs(self, model: Any, batch: PairBatch) -> Tensor:
        """Returns the log-probabilities of a batch's completions, with shape (N).

        Those that are not in the cache are computed and added to it, unless they depend on the
        longest text beside them (:func:`fixed_context`).

        Arguments:
            model: The reference, as a launcher may have wrapped it.
            batch: The batch.
        """
        if self.context is not None and batch["input_ids"].shape[1] >= self.context:
            return self.compute(model, batch)
        return self.cache.get_or_compute(
            batch["keys"], lambda: self.compute(model, batch), batch["input_ids"].shape
        )

    def save(self) -> None:
        """Writes what was added to the cache, if that was used."""
        if "cache" in vars(self):
            self.cache.save()

    def report(self, run_folder: str, *, resumed: bool) -> None:
        """Writes to a run's folder how many numbers the cache held, if that was used."""
        if "cache" in vars(self):
            self.cache.report(run_folder, resumed=resumed)

    @torch.no_grad()
    def compute(self, model: Any, batch: PairBatch) -> Tensor:
        """Computes the log-probabilities of a batch's completions, with shape (N)."""
        unwrapped = self.accelerator.unwrap_model(model)
        with self._as_reference(unwrapped), self.accelerator.autocast():
            outputs = token_log_probs(model, batch, unwrapped)
            return sum_by_completion(outputs.log_probs, batch["num_targets"])

    @contextmanager
    def _as_reference(self, model: Any) -> Iterator[None]:
        """Puts a model into evaluation mode; takes a policy's adapter and training off it."""
        with ExitStack() as stack:
            stack.enter_context(evaluation_mode(model))
            if self.shares_policy and isinstance(model, PeftModel):
                stack.enter_context(
                    use_adapter(model, "ref" if "ref" in model.peft_config else None)
                )
                stack.enter_context(swapped_weights(model, self.base))
            yield

    def _cache_name(self) -> str:
        bare = self.accelerator.unwrap_model(self.model)
        weights = {**_base_weights(bare, keep=("ref",)), **self.base}
        precision, attention = self.accelerator.mixed_precision, bare.config._attn_implementation
        return fingerprint(weights.items(), model_config(bare), precision, attention)


def has_sharded_weights(accelerator: Accelerator) -> bool:
    """Returns whether each process holds a part of every weight."""
    return accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED)


def fixed_context(config: Any) -> int | None:
    """Returns the length from which on probabilities depend on the longest text of a batch.

    ``None`` if they never do. Dynamic and long RoPE change their frequencies where a text exceeds
    the length that the model was first trained with.
    """
    config = config.get_text_config()
    rope = getattr(config, "rope_parameters", None) or {}
    kinds = [rope, *(value for value in rope.values() if isinstance(value, dict))]
    if not any(kind.get("rope_type") in ("dynamic", "longrope") for kind in kinds):
        return None
    lengths = [kind.get("original_max_position_embeddings") for kind in kinds]
    return min(filter(None, lengths), default=config.max_position_embeddings)


def require_unchanged_base(model: PeftModel) -> None:
    """Raises `ValueError` if an adapter took a part of its base's weights."""
    for config in model.peft_config.values():
        start = str(getattr(config, "init_lora_weights", ""))
        if start.startswith(CHANGES_BASE) or getattr(config, "kasa_config", None):
            raise ValueError(
                f"init_lora_weights={start!r} changes the base's weights, so that the policy "
                "without its adapter is no reference: give ref_model or another initialisation"
            )


@contextmanager
def swapped_weights(model: nn.Module, weights: dict[str, Tensor]) -> Iterator[None]:
    """Gives parameters other values, and their own afterwards."""
    parameters = {name: model.get_parameter(name) for name in weights}
    values = {name: parameter.data for name, parameter in parameters.items()}
    try:
        for name, parameter in parameters.items():
            parameter.data = weights[name]
        yield
    finally:
        for name, parameter in parameters.items():
            parameter.data = values[name]


def _base_weights(model: Any, keep: Sequence[str] = ()) -> dict[str, Tensor]:
    """Returns the parameters that belong to no adapter, or to one that is named."""
    adapters = set(model.peft_config) - set(keep) if isinstance(model, PeftModel) else set()
    return {
        name: parameter
        for name, parameter in model.named_parameters()
        if not adapters & set(name.split("."))
    }
