"""Metrics of training: means between two logs, the pairs of a batch, the tokens of a batch."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import Accelerator
from torch import Tensor

from fdpo.llm.collator import PairBatch
from fdpo.llm.forward import sum_by_completion
from fdpo.preferences.pairs import SIDES
from fdpo.runs.files import to_plain

Mode = Literal["train", "eval"]
Weighted = tuple[float, float]
"""The sum of a metric and the pairs or tokens that it is of: their quotient is its mean."""

TOKEN_METRICS = {
    "entropy": ("num_chosen", "num_rejected"),
    "logits/chosen": ("num_chosen",),
    "logits/rejected": ("num_rejected",),
    "mean_token_accuracy": ("num_chosen",),
}
"""Metrics in which each token weighs the same, with the numbers of tokens that they are sums of."""


class Means:
    """Means of metrics since the last log, of training and of evaluation.

    A mean is a sum over its weight, the pairs or tokens that the sum is of, so that it does not
    depend on the sizes of batches.
    """

    def __init__(self) -> None:
        self.values: dict[Mode, dict[str, Weighted]] = {"train": {}, "eval": {}}

    def add(self, mode: Mode, sums: Mapping[str, Weighted]) -> None:
        """Adds the sums and weights of a batch."""
        for name, (total, weight) in sums.items():
            before = self.values[mode].get(name, (0.0, 0.0))
            self.values[mode][name] = before[0] + total, before[1] + weight

    def set(self, mode: Mode, name: str, value: float) -> None:
        """Replaces the values of a metric by one."""
        self.values[mode][name] = value, 1.0

    def mean(self, mode: Mode, name: str) -> float | None:
        """Returns the mean of a metric, None where it has no values."""
        total, weight = self.values[mode].get(name, (0.0, 0.0))
        return total / weight if weight else None

    def pop(self, mode: Mode) -> dict[str, float]:
        """Returns the means, under the names of TRL's log, and starts again."""
        prefix = "" if mode == "train" else "eval_"
        sums, self.values[mode] = self.values[mode], {}
        means = {name: total / weight if weight else 0.0 for name, (total, weight) in sums.items()}
        return {prefix + name: mean for name, mean in means.items()}

    def start(self, mode: Mode) -> None:
        """Drops the values of a mode."""
        self.values[mode].clear()


class CountedPairs:
    """The pairs that an epoch, or an evaluation, has counted.

    Several processes fill up their last batches with pairs from the beginning. A pair counts once;
    its index in the dataset identifies it.

    Arguments:
        accelerator: The accelerator of the processes.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self.accelerator = accelerator
        self.indices: dict[Mode, set[int]] = {"train": set(), "eval": set()}

    def start(self, mode: Mode) -> None:
        """Starts an epoch or an evaluation."""
        self.indices[mode].clear()

    def gather(self, mode: Mode, indices: Tensor, table: Tensor) -> tuple[list[int], Tensor]:
        """Gathers the pairs of all processes that are not counted yet, on the host.

        Arguments:
            mode: The mode of the model.
            indices: The indices of the pairs, -1 where they are unknown, with shape (B).
            table: Their values, with shape (B, ...).
        """
        if self.accelerator.num_processes == 1:
            return indices.tolist(), table.cpu()
        if mode == "eval" and bool((indices < 0).any()):  # the length of the data is known to tell
            indices, table = self.accelerator.gather_for_metrics((indices, table))
            return indices.tolist(), table.cpu()
        indices, table = self.accelerator.gather((indices, table))
        new = [self._is_new(mode, index) for index in indices.tolist()]
        return indices[new].tolist(), table[new].cpu()

    def _is_new(self, mode: Mode, index: int) -> bool:
        counted = self.indices[mode]
        is_new = index < 0 or index not in counted
        counted.add(index)
        return is_new


@dataclass(frozen=True)
class PairMetrics:
    """Metrics of the B pairs of a batch, those of all processes, on the host.

    Arguments:
        indices: The rows of the pairs in the dataset, -1 where they are unknown.
        names: The names of the metrics.
        table: Their values, with shape (B, len(names)); those of tokens are sums over the pair's.
    """

    indices: list[int]
    names: tuple[str, ...]
    table: Tensor

    @classmethod
    def gather(
        cls,
        counted: CountedPairs,
        mode: Mode,
        indices: Tensor | None,
        columns: Mapping[str, Tensor],
    ) -> PairMetrics:
        """Gathers the columns of all processes, each with shape (B), once for each pair."""
        first = next(iter(columns.values()))
        indices = torch.full_like(first, -1, dtype=torch.long) if indices is None else indices
        table = torch.stack([column.float() for column in columns.values()], dim=1)
        new_indices, new_table = counted.gather(mode, indices, table)
        return cls(new_indices, tuple(columns), new_table)

    def __getitem__(self, name: str) -> Tensor:
        """Returns the values of a metric, with shape (B)."""
        return self.table[:, self.names.index(name)]

    def rows(self) -> Iterator[tuple[int, dict[str, float]]]:
        """Yields the index and the metrics of each pair."""
        for index, values in zip(self.indices, self.table.tolist(), strict=True):
            yield index, dict(zip(self.names, values, strict=True))

    def sums(self) -> dict[str, Weighted]:
        """Returns the sum and the weight of each metric, those of the log and ``loss``."""
        totals = dict(zip(self.names, self.table.double().sum(dim=0).tolist(), strict=True))
        weights = {
            name: sum(totals[number] for number in TOKEN_METRICS[name])
            if name in TOKEN_METRICS
            else float(len(self.indices))
            for name in totals
        }
        numbers = {number for names in TOKEN_METRICS.values() for number in names}
        return {name: (totals[name], weights[name]) for name in totals if name not in numbers}

    def first_nonfinite(self) -> tuple[int, dict[str, float]] | None:
        """Returns index and metrics of the first pair with a loss that is not finite, if any."""
        pairs = ((index, row) for index, row in self.rows() if not math.isfinite(row["loss"]))
        return next(pairs, None)


@torch.no_grad()
def token_columns(batch: PairBatch, outputs: Any) -> dict[str, Tensor]:
    """Computes the sums over tokens that TRL's metrics of the policy's tokens are made of.

    Arguments:
        batch: The batch.
        outputs: The policy's outputs (:func:`fdpo.llm.forward.token_log_probs`).

    Returns:
        The columns by name, each with shape (B): :data:`TOKEN_METRICS` and their numbers.
    """
    pairs, num_targets = batch["pairs"], batch["num_targets"]

    def by_side(values: Tensor) -> tuple[Tensor, ...]:
        return sum_by_completion(values, num_targets)[pairs].unbind(1)

    num_chosen, num_rejected = num_targets[pairs].unbind(1)
    chosen_logits, rejected_logits = by_side(outputs.mean_logits)
    return {
        "entropy": torch.stack(by_side(outputs.entropy)).sum(dim=0),
        "logits/chosen": chosen_logits,
        "logits/rejected": rejected_logits,
        "mean_token_accuracy": by_side(outputs.is_top1)[0],
        "num_chosen": num_chosen,
        "num_rejected": num_rejected,
    }


def batch_tokens(accelerator: Accelerator, batch: PairBatch) -> tuple[int, int]:
    """Returns the tokens of a batch, those of all processes, without and with padding."""
    mask = batch["attention_mask"]
    numbers = torch.stack([mask.sum(), torch.tensor(mask.numel(), device=mask.device)])
    tokens, places = accelerator.gather(numbers[None]).sum(dim=0).tolist()
    return tokens, places


def append_pairs(path: Path, metrics: PairMetrics, *, step: int, beta: float) -> None:
    """Appends a row for each pair to a JSONL file."""
    with open(path, "a", encoding="utf-8") as file:
        for index, values in metrics.rows():
            row = {
                "step": step,
                "pair": index,
                "loss": values["loss"],
                "in_tail": bool(values["tail_fraction"]),
            }
            for side in SIDES:
                row[f"{side}_log_ratio"] = values[f"log_ratios/{side}"]
                row[f"{side}_link"] = values[f"rewards/{side}"] / beta
                row[f"{side}_slope"] = values[f"slopes/{side}"]
            file.write(json.dumps(to_plain(row)) + "\n")
