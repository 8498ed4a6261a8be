"""Log-probabilities of completions under the frozen reference of a policy, cached on disk."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from peft import PeftModel
from torch import Tensor
from trl.trainer.utils import use_adapter

from fdpo.llm.collator import PairBatch
from fdpo.llm.forward import sum_by_completion, token_log_probs
from fdpo.runs.cache import OFF, ReferenceCache, fingerprint, model_config


class Reference:
    """The frozen reference of a policy.

    Its log-probabilities depend on the tokens, its weights and the precision alone, so that all
    runs with the same reference share a folder of the cache.

    Arguments:
        accelerator: The accelerator of the trainer.
        model: The reference.
        shares_policy: Whether the reference is the policy without its adapter, or with the adapter
            ``ref``, the copy of a pretrained one.
        cache_folder: The folder of all caches (:meth:`fdpo.runs.cache.ReferenceCache.open`);
            ``off`` caches nothing.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        model: Any,
        *,
        shares_policy: bool,
        cache_folder: str | None = None,
    ) -> None:
        self.accelerator, self.shares_policy = accelerator, shares_policy
        folder = OFF if has_sharded_weights(accelerator) else cache_folder
        self.cache = ReferenceCache.open(lambda: self._cache_name(model), folder)

    def log_probs(self, model: Any, batch: PairBatch) -> Tensor:
        """Returns the log-probabilities of a batch's completions, with shape (N).

        Those that are not in the cache are computed and added to it.

        Arguments:
            model: The reference, as a launcher may have wrapped it.
            batch: The batch.
        """
        return self.cache.get_or_compute(batch["keys"], lambda: self.compute(model, batch))

    @torch.no_grad()
    def compute(self, model: Any, batch: PairBatch) -> Tensor:
        """Computes the log-probabilities of a batch's completions, with shape (N)."""
        unwrapped = self.accelerator.unwrap_model(model)
        with self._adapter(unwrapped), self.accelerator.autocast():
            outputs = token_log_probs(model, batch, unwrapped)
            return sum_by_completion(outputs.log_probs, batch["num_targets"])

    def _adapter(self, model: Any) -> AbstractContextManager[Any]:
        """Switches the policy's adapter off, or to its frozen copy."""
        if not self.shares_policy or not isinstance(model, PeftModel):
            return nullcontext()
        return use_adapter(model, "ref" if "ref" in model.peft_config else None)

    def _cache_name(self, model: Any) -> str:
        bare = self.accelerator.unwrap_model(model)
        adapters = set(bare.peft_config) - {"ref"} if isinstance(bare, PeftModel) else set()
        weights = [
            (name, value)
            for name, value in bare.named_parameters()
            if not adapters & set(name.split("."))
        ]
        precision, attention = self.accelerator.mixed_precision, bare.config._attn_implementation
        return fingerprint(weights, model_config(bare), precision, attention)


def has_sharded_weights(accelerator: Accelerator) -> bool:
    """Returns whether each process holds a part of every weight."""
    return accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED)
