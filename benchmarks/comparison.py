"""Side-by-side measurements: fresh processes, clocks, memory, rounds and ratios.

The sides take turns: each round runs every side once, so that other work on the machine affects all
of them, and ratios are computed within a round. They are reported as median (smallest to largest).
A GPU is used if there is one (``CUDA_VISIBLE_DEVICES=`` hides it).
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


def in_fresh_process(function: Callable[..., T], *arguments: Any) -> T:
    """Calls a function in a new process, with separate memory, and returns its result."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def now() -> float:
    """Returns the time in seconds, after a GPU has finished its queue."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def peak_memory(reset: bool = False) -> float:
    """Returns the peak of memory in MiB, a GPU's if there is one; ``reset`` starts it again.

    On the CPU it is the process's resident memory, as Linux counts it.
    """
    if torch.cuda.is_available():
        if reset:
            torch.cuda.reset_peak_memory_stats()
        return torch.cuda.max_memory_allocated() / 2**20
    if reset:
        ctypes.CDLL(None).malloc_trim(0)  # freed memory would hide later growth
        Path("/proc/self/clear_refs").write_bytes(b"5")
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.split("VmHWM:")[1].split()[0]) / 2**10


def matrix_rate(bf16: bool = False) -> float:
    """Measures the rate of a product of square matrices, FLOP/s: the best of ten."""
    device, size = ("cuda", 8192) if torch.cuda.is_available() else ("cpu", 1024)
    dtype = torch.bfloat16 if bf16 else torch.float32
    left, right = torch.randn(2, size, size, device=device, dtype=dtype)
    seconds = []
    for _ in range(10):
        start = now()
        torch.mm(left, right)
        seconds.append(now() - start)
    return 2 * size**3 / min(seconds)


def flat_gradient(loss: Tensor, model: nn.Module) -> Tensor:
    """Returns the gradient of a loss in all weights of a model, as one vector in float64."""
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    return torch.cat([gradient.flatten().double() for gradient in gradients])


def relative_differences(
    actual: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor]
) -> dict[str, float]:
    """Returns the relative differences of two losses and of their gradients."""
    return {
        name: ((a.detach() - b.detach()).norm() / b.detach().norm()).item()
        for name, a, b in zip(("loss", "gradient"), actual, expected, strict=True)
    }


def require_agreement(differences: dict[str, float], bf16: bool = False) -> None:
    """Prints the differences of loss and gradient; exits if they are more than rounding."""
    print(", ".join(f"difference of the {name} {value:.1e}" for name, value in differences.items()))
    if not max(differences.values()) <= (0.05 if bf16 else 1e-3):
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
        sides: The names of the sides.
        rounds: The number of rounds.
        measure: (side, number of the round) -> values by name.
        output: The JSON file to write.
        record: The contents of the file besides the rows and the commit.
    """
    rows: list[Row] = []
    for number in range(rounds):
        for side in sides:
            rows.append({"round": number, "side": side, **measure(side, number)})
            values = {name: f"{value:.4g}" for name, value in rows[-1].items() if name != "side"}
            print(f"{side}:", ", ".join(f"{n} {v}" for n, v in values.items()), flush=True)
            runs.write_json(output, {**record, "commit": runs.git_commit(), "rows": rows})
    return rows


def side_values(rows: Sequence[Row], side: str, name: str) -> list[float]:
    """Returns the values of a side, one for each round."""
    return [row[name] for row in rows if row["side"] == side]


def ratios(rows: Sequence[Row], side: str, base: str, name: str) -> list[float]:
    """Returns a side's values as multiples of the base's, one for each round."""
    pairs = zip(side_values(rows, side, name), side_values(rows, base, name), strict=True)
    return [value / base_value for value, base_value in pairs]


def ratio(rows: Sequence[Row], side: str, base: str, name: str) -> str:
    """Returns a side's value as a multiple of the base's: median and range over rounds."""
    return median_and_range(ratios(rows, side, base, name))


def median_and_range(values: Sequence[float]) -> str:
    """Returns the median with the smallest and the largest value."""
    return f"{median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def markdown_table(header: Sequence[str], lines: Sequence[Sequence[object]]) -> str:
    """Returns a Markdown table."""
    rows = [header, ["---"] * len(header), *lines]
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in rows)
