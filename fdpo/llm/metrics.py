"""Metrics of training: means between two logs, the pairs of a batch, the tokens of a batch."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import Accelerator
from torch import Tensor

from fdpo.llm.collator import PairBatch
from fdpo.llm.forward import sum_by_completion
from fdpo.losses.fdpo import LossOutput
from fdpo.preferences.pairs import SIDES

Mode = Literal["train", "eval"]


class Means:
    """Means of metrics since the last log, of training and of evaluation."""

    def __init__(self) -> None:
        self.values: dict[Mode, dict[str, list[float]]] = {
            "train": defaultdict(list),
            "eval": defaultdict(list),
        }

    def add(self, mode: Mode, metrics: Mapping[str, float]) -> None:
        """Adds the metrics of a batch."""
        for name, value in metrics.items():
            self.values[mode][name].append(value)

    def set(self, mode: Mode, name: str, value: float) -> None:
        """Replaces the values of a metric by one."""
        self.values[mode][name] = [value]

    def pop(self, mode: Mode) -> dict[str, float]:
        """Returns the means, under the names of TRL's log, and starts again."""
        prefix = "" if mode == "train" else "eval_"
        means = {prefix + name: sum(v) / len(v) for name, v in self.values[mode].items()}
        self.values[mode].clear()
        return means


@dataclass(frozen=True)
class PairMetrics:
    """Metrics of the B pairs of a batch, those of all processes, on the host.

    Arguments:
        indices: The rows of the pairs in the dataset, -1 where they are unknown.
        names: The names of the metrics, ``loss`` and those of the log.
        table: Their values, with shape (B, len(names)).
    """

    indices: list[int]
    names: tuple[str, ...]
    table: Tensor

    @classmethod
    def gather(
        cls, accelerator: Accelerator, indices: Tensor | None, columns: Mapping[str, Tensor]
    ) -> PairMetrics:
        """Gathers the columns of all processes, each with shape (B), in one collective call."""
        first = next(iter(columns.values()))
        indices = torch.full_like(first, -1, dtype=torch.long) if indices is None else indices
        table = torch.stack([column.float() for column in (indices, *columns.values())], dim=1)
        table = accelerator.gather_for_metrics(table).cpu()
        return cls(table[:, 0].long().tolist(), tuple(columns), table[:, 1:])

    def __getitem__(self, name: str) -> Tensor:
        """Returns the values of a metric, with shape (B)."""
        return self.table[:, self.names.index(name)]

    def rows(self) -> Iterator[tuple[int, dict[str, float]]]:
        """Yields the index and the metrics of each pair."""
        for index, values in zip(self.indices, self.table.tolist(), strict=True):
            yield index, dict(zip(self.names, values, strict=True))

    def means(self) -> dict[str, float]:
        """Returns the mean of each metric of the log; the trainer itself logs the loss."""
        means = dict(zip(self.names, self.table.mean(dim=0).tolist(), strict=True))
        del means["loss"]
        return means

    def first_nonfinite(self) -> tuple[int, dict[str, float]] | None:
        """Returns index and metrics of the first pair with a loss that is not finite, if any."""
        pairs = ((index, row) for index, row in self.rows() if not math.isfinite(row["loss"]))
        return next(pairs, None)


def pair_columns(
    losses: Tensor,
    log_probs: tuple[Tensor, Tensor],
    log_ratios: tuple[Tensor, Tensor],
    output: LossOutput,
) -> dict[str, Tensor]:
    """Returns the metrics of pairs by name, each with shape (B).

    Arguments:
        losses: The losses, with shape (B).
        log_probs: The policy's log-probabilities of the chosen and the rejected sides.
        log_ratios: Those less the reference's.
        output: The output of :func:`fdpo.fdpo_loss`.
    """
    return {
        "loss": losses,
        "logps/chosen": log_probs[0],
        "logps/rejected": log_probs[1],
        "log_ratios/chosen": log_ratios[0],
        "log_ratios/rejected": log_ratios[1],
        "rewards/chosen": output.chosen_rewards,
        "rewards/rejected": output.rejected_rewards,
        "rewards/margins": output.margins,
        "rewards/accuracies": output.chosen_rewards > output.rejected_rewards,
        "slopes/chosen": output.chosen_slopes,
        "slopes/rejected": output.rejected_slopes,
        "tail_fraction": output.in_tail,
    }


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
            file.write(json.dumps(row) + "\n")


@torch.no_grad()
def token_metrics(
    accelerator: Accelerator, batch: PairBatch, outputs: Any
) -> tuple[dict[str, float], int]:
    """Computes TRL's metrics of the policy's tokens, in which each token weighs the same.

    Arguments:
        accelerator: The accelerator, whose processes are gathered in one collective call.
        batch: The batch.
        outputs: The policy's outputs (:func:`fdpo.llm.forward.token_log_probs`).

    Returns:
        The metrics, and the number of tokens of the batch.
    """
    pairs, mask = batch["pairs"], batch["attention_mask"]

    def by_side(values: Tensor) -> list[Tensor]:
        return list(sum_by_completion(values, batch["num_targets"])[pairs].sum(dim=0))

    num_chosen, num_rejected = batch["num_targets"][pairs].sum(dim=0)
    chosen_logits, rejected_logits = by_side(outputs.mean_logits)
    sums = {
        "entropy": torch.stack(by_side(outputs.entropy)).sum(),
        "logits/chosen": chosen_logits,
        "logits/rejected": rejected_logits,
        "correct": by_side(outputs.is_top1)[0],
        "num_chosen": num_chosen,
        "num_rejected": num_rejected,
        "num_tokens": mask.sum(),
        "capacity": torch.tensor(mask.numel(), device=mask.device),
    }
    stacked = torch.stack(list(sums.values())).float()[None]
    gathered = accelerator.gather_for_metrics(stacked).sum(dim=0).tolist()
    total = dict(zip(sums, gathered, strict=True))
    metrics = {
        "entropy": total["entropy"] / max(1, total["num_chosen"] + total["num_rejected"]),
        "logits/chosen": total["logits/chosen"] / max(1, total["num_chosen"]),
        "logits/rejected": total["logits/rejected"] / max(1, total["num_rejected"]),
        "mean_token_accuracy": total["correct"] / max(1, total["num_chosen"]),
        "padded_fraction": 1 - total["num_tokens"] / total["capacity"],
    }
    return metrics, int(total["num_tokens"])
