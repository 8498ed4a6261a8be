"""The reference of an image policy and the cache of its errors."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from fdpo.diffusion.config import DiffusionConfig
from fdpo.diffusion.loss import NoisedSides
from fdpo.diffusion.noise import NoiseProcess, errors
from fdpo.preferences.pairs import SIDES
from fdpo.runs.cache import OFF, ReferenceCache, fingerprint, model_config

Predict = Callable[[nn.Module, NoisedSides], Tensor]
"""(model, inputs) -> prediction, with the shape of the noised images."""


def open_cache(
    model: nn.Module, process: NoiseProcess, config: DiffusionConfig, *, enabled: bool
) -> ReferenceCache:
    """Opens the cache of a reference's errors, which depend on nothing but these.

    Arguments:
        model: The reference.
        process: Its noising process.
        config: The options; ``reference_cache`` is the folder of all caches.
        enabled: False for a cache that stores nothing.
    """
    return ReferenceCache.open(
        lambda: fingerprint(
            model.named_parameters(), model_config(model), dict(process.scheduler().config),
            config.mixed_precision,
        ),
        config.reference_cache if enabled else OFF,
    )  # fmt: skip


def frozen_copy(model: nn.Module) -> nn.Module:
    """Returns a copy of a model in evaluation mode.

    Its parameters still require gradients, although the copy runs without them: on some CPUs torch
    multiplies by a frozen matrix in another order, and the untouched policy would differ from its
    reference by rounding.
    """
    return copy.deepcopy(model).eval()


class Reference:
    """The reference of a policy: a frozen copy, or the policy with its adapter disabled.

    Arguments:
        model: The frozen copy, or the policy with the adapter.
        predict: The call of a model.
        cache: The cache of the errors.
        adapter: True if ``model`` is the policy with an adapter.
    """

    def __init__(
        self, model: nn.Module, predict: Predict, cache: ReferenceCache, *, adapter: bool
    ) -> None:
        self.model, self.cache, self.adapter = model, cache, adapter
        self._predict = predict

    @torch.no_grad()
    def predict(self, inputs: NoisedSides) -> Tensor:
        """Returns the reference's predictions, with the shape of the noised images."""
        model: Any = self.model
        with model.disable_adapter() if self.adapter else nullcontext():
            return self._predict(model, inputs)

    def errors(self, inputs: NoisedSides, keys: Mapping[str, Tensor] | None = None) -> Tensor:
        """Returns the reference's errors, with shape (N).

        Arguments:
            inputs: The noised images.
            keys: For each side, their keys in the cache; without keys the cache is not used.
        """

        def compute() -> Tensor:
            return errors(self.predict(inputs), inputs.target)

        if keys is None:
            return compute()
        stacked = torch.cat([keys[side].flatten(0, 1) for side in SIDES])
        return self.cache.get_or_compute(stacked, compute)
