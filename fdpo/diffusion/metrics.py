"""The metrics log of image training, and quantiles of recent log-ratios."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from fdpo import runs
from fdpo.diffusion.loss import Metrics
from fdpo.preferences.pairs import SIDES

QUANTILES = (0.05, 0.5, 0.95)
SHOWN = {
    "loss": "loss",
    "log_ratios/chosen": "chosen",
    "log_ratios/rejected": "rejected",
    "rewards/accuracies": "accuracy",
}
"""Metrics beside the progress bar -> their labels."""


def gather_metrics(
    accelerator: Accelerator, batches: Sequence[Metrics]
) -> tuple[Metrics, dict[str, float]]:
    """Gathers the metrics of an update's batches from all processes.

    Returns:
        The metrics of each pair, on the CPU, and their means.
    """
    names = list(batches[0])
    columns = [torch.cat([batch[name] for batch in batches]) for name in names]
    table = accelerator.gather(torch.stack(columns, dim=1)).cpu()
    metrics = dict(zip(names, table.unbind(1), strict=True))
    return metrics, dict(zip(names, table.mean(0).tolist(), strict=True))


def brief(row: Mapping[str, float]) -> str:
    """Returns the metrics of a row that the progress bar shows."""
    return ", ".join(f"{label} {row[name]:.3g}" for name, label in SHOWN.items() if name in row)


class TrainingLog:
    """The rows of a run's log, which go to ``log.jsonl`` and to the trackers.

    Arguments:
        accelerator: The accelerator, with its trackers.
        folder: The run folder.
    """

    def __init__(self, accelerator: Accelerator, folder: Path) -> None:
        self.accelerator, self.file = accelerator, folder / runs.LOG
        self.rows: list[dict[str, Any]] = []

    def start_trackers(self, options: Mapping[str, Any]) -> None:
        """Starts the trackers and sends them the options of the run."""
        plain = {
            name: value if isinstance(value, int | float | bool) else str(value)
            for name, value in options.items()
        }
        self.accelerator.init_trackers("fdpo", plain)

    def add(self, row: Mapping[str, Any]) -> None:
        """Adds a row, which holds the ``step``."""
        self.rows.append(dict(row))
        metrics = {name: value for name, value in row.items() if name != "step"}
        self.accelerator.log(metrics, step=row["step"])
        if self.accelerator.is_main_process:
            runs.write_jsonl(self.file, self.rows)


class RecentLogRatios:
    """The log-ratios of the most recent updates.

    Arguments:
        updates: The number of updates.
    """

    def __init__(self, updates: int = 50) -> None:
        self.recent: deque[Tensor] = deque(maxlen=updates)

    def add(self, metrics: Metrics) -> None:
        """Adds the log-ratios of an update, if the loss compares."""
        names = [f"log_ratios/{side}" for side in SIDES]
        if all(name in metrics for name in names):
            self.recent.append(torch.stack([metrics[name] for name in names], dim=1))

    def quantiles(self) -> dict[str, float]:
        """Returns quantiles of both sides' log-ratios by name: the range of the link in use."""
        if not self.recent:
            return {}
        values = torch.cat(list(self.recent))  # with shape (pairs, 2)
        quantiles = values.quantile(torch.tensor(QUANTILES), dim=0)
        return {
            f"log_ratio_{side}_q{100 * q:02.0f}": quantiles[i, j].item()
            for j, side in enumerate(SIDES)
            for i, q in enumerate(QUANTILES)
        }
