"""Cases of the published results, computed again from the numbers in the repository."""

from __future__ import annotations

import copy
import json
import os
import re
import shutil
from collections import Counter
from typing import Any

import nbformat
from nbclient import NotebookClient

from tests.golden.compare import differences
from tests.golden.workplace import ENVIRONMENT, ROOT, Workplace

FILES = ("questions", "curves", "calibration", "samples")
LEFT_OUT = ("arguments", "commits", "units")
"""Their keys that are not compared."""
NOTEBOOK = ROOT / "results.ipynb"


def results(work: Workplace) -> Any:
    """Computes the answers of the text sweep again.

    The golden value has no difference from ``results/`` as committed, and sums of its numbers.
    """
    arguments = json.loads((ROOT / "results/text_questions.json").read_text())["arguments"]
    shutil.copytree(ROOT / "results/text_runs", work.folder / "text_runs")
    work.run("archive", "--sweep", "sweep-imdb", "--archive", "text_runs")
    work.run(
        "text_results", "--sweep", "sweep-imdb", "--betas", *arguments["betas"], "--draws",
        arguments["draws"], "--output", "text",
    )  # fmt: skip
    files = {name: of_file(work, name) for name in FILES}
    files["text_runs"] = {"names": work.names("text_runs")}
    return files


def of_file(work: Workplace, name: str) -> dict[str, Any]:
    """Compares a file of results with the committed one, and sums its rows up."""
    committed, fresh = (
        json.loads((folder / f"text_{name}.json").read_text(encoding="utf-8"))
        for folder in (ROOT / "results", work.folder)
    )
    for one in (committed, fresh):
        for key in LEFT_OUT:
            one.pop(key, None)
    return {
        "differences": differences(committed, fresh, exact=False),
        "totals": {key: totals(fresh[key]) for key in ("rows", "betas") if key in fresh},
    }


def totals(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns the sum of each column of numbers, and how often each text of another occurs."""
    columns: dict[str, list[Any]] = {}
    for row in rows:
        for key, value in row.items():
            columns.setdefault(key, []).append(value)
    return {key: total(values) for key, values in columns.items()}


def total(values: list[Any]) -> Any:
    """Returns the count and the sum of numbers; of other values the number of different ones."""
    numbers = [value for value in values if isinstance(value, int | float)]
    if numbers:
        return [len(numbers), float(f"{sum(numbers):.9g}")]
    return sorted(Counter(map(str, values)).values())


def notebook(work: Workplace) -> Any:
    """Runs the notebook on the results; the golden value has no output that is not stored in it."""
    stored = nbformat.read(NOTEBOOK, as_version=4)
    fresh = copy.deepcopy(stored)
    environment = {**os.environ, **ENVIRONMENT, "FDPO_RESULTS": str(ROOT / "results")}
    del environment["MPLBACKEND"]  # pyplot must show its figures
    client = NotebookClient(fresh, timeout=300, resources={"metadata": {"path": str(work.folder)}})
    client.execute(env=environment)
    stored_texts, fresh_texts = shown(stored), shown(fresh)
    return {
        "differences": differences(stored_texts, fresh_texts, exact=True),
        "numbers": [re.findall(r"-?\d+\.\d+", text) for text in tables(fresh_texts)],
        "images": sum(text == "image/png" for texts in fresh_texts for text in texts),
    }


def shown(read: Any) -> list[list[str]]:
    """Returns the texts that each block of code shows, and the kinds of its other outputs."""
    blocks = [block for block in read.cells if block.cell_type == "code"]
    return [
        [text_of(output) for output in block.outputs if output.get("name") != "stderr"]
        for block in blocks
    ]


def text_of(output: Any) -> str:
    """Returns the text of an output, or its kind."""
    data = output.get("data", {})
    for kind in ("text/html", "text/markdown"):
        if kind in data:
            return str(data[kind])
    return str(output.get("text", "image/png" if "image/png" in data else output.output_type))


def tables(texts: list[list[str]]) -> list[str]:
    """Returns the texts that are tables."""
    return [text for block in texts for text in block if text.lstrip().startswith("|")]
