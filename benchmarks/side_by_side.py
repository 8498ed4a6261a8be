"""What comparisons of speed share: processes of their own, clocks, memory, rounds and ratios.

Sides take turns: each round runs every side once, so that what else the machine does meets them
all, and ratios are those within a round. They are given as median (least to largest). A GPU is used
where there is one (``CUDA_VISIBLE_DEVICES=`` hides it).
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from fdpo import runs

T = TypeVar("T")
Row = dict[str, Any]


def alone(function: Callable[..., T], *arguments: Any) -> T:
    """Calls a function in a fresh process, whose memory is its own, and returns what it returns."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def now() -> float:
    """Returns the time in seconds, once a GPU has done what it was asked for."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def memory(reset: bool = False) -> float:
    """Returns the peak of memory in MiB, a GPU's if there is one; ``reset`` starts it anew.

    On the CPU it is the process's resident memory, as Linux counts it.
    """
    if torch.cuda.is_available():
        if reset:
            torch.cuda.reset_peak_memory_stats()
        return torch.cuda.max_memory_allocated() / 2**20
    if reset:
        ctypes.CDLL(None).malloc_trim(0)  # what was freed is not memory that can be grown into
        Path("/proc/self/clear_refs").write_text("5")
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 2**10


def matrix_rate(bf16: bool = False) -> float:
    """Measures the rate of a product of square matrices, FLOP/s: the best of ten."""
    device, size = ("cuda", 8192) if torch.cuda.is_available() else ("cpu", 1024)
    dtype = torch.bfloat16 if bf16 else torch.float32
    left, right = torch.randn(2, size, size, device=device, dtype=dtype)
    seconds = []
    for _ in range(10):
        begun = now()
        torch.mm(left, right)
        seconds.append(now() - begun)
    return 2 * size**3 / min(seconds)


def gradient_of(loss: Tensor, model: nn.Module) -> Tensor:
    """Returns the gradient of a loss in all weights of a model, as one vector in float64."""
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    return torch.cat([gradient.flatten().double() for gradient in gradients])


def differences(found: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor]) -> dict[str, float]:
    """Returns the relative differences of two losses and of their gradients."""
    return {
        name: ((a.detach() - b.detach()).norm() / b.detach().norm()).item()
        for name, a, b in zip(("loss", "gradient"), found, expected, strict=True)
    }


def require_agreement(found: dict[str, float], bf16: bool = False) -> None:
    """Shows the differences of loss and gradient, and ends the program if they are not rounding."""
    print(", ".join(f"difference of the {name} {value:.1e}" for name, value in found.items()))
    if not max(found.values()) <= (0.05 if bf16 else 1e-3):
        raise SystemExit("the sides do not agree: there is nothing to compare")


def alternate(
    sides: Sequence[str],
    rounds: int,
    measure: Callable[[str, int], Row],
    output: str,
    record: Row,
) -> list[Row]:
    """Measures every side in every round, and writes the rows as they come.

    Arguments:
        sides: What is compared.
        rounds: How often.
        measure: (side, number of the round) -> figures.
        output: The JSON file to write.
        record: What the file holds besides the rows and the commit.
    """
    rows: list[Row] = []
    for number in range(rounds):
        for side in sides:
            rows.append({"round": number, "side": side, **measure(side, number)})
            shown = {name: f"{value:.4g}" for name, value in rows[-1].items() if name != "side"}
            print(f"{side}:", ", ".join(f"{n} {v}" for n, v in shown.items()), flush=True)
            runs.write_json(output, {**record, "commit": runs.git_commit(), "rows": rows})
    return rows


def values(rows: Sequence[Row], side: str, figure: str) -> list[float]:
    """Returns a figure of a side, one for each round."""
    return [row[figure] for row in rows if row["side"] == side]


def ratio(rows: Sequence[Row], side: str, base: str, figure: str) -> str:
    """Returns how many times the base's figure a side's is."""
    both = zip(values(rows, side, figure), values(rows, base, figure), strict=True)
    return spread([mine / other for mine, other in both])


def spread(numbers: Sequence[float]) -> str:
    """Returns the median with the range."""
    return f"{median(numbers):.2f} ({min(numbers):.2f} to {max(numbers):.2f})"


def table(header: Sequence[str], lines: Sequence[Sequence[object]]) -> str:
    """Returns a Markdown table."""
    cells = [header, ["---"] * len(header), *lines]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in cells)
