"""The notebook of results runs and shows its stored outputs; the study runs on a small scale."""

from __future__ import annotations

import copy
import json
import re
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[2]


def read(path: Path) -> Any:
    return nbformat.read(path, as_version=4)


def code_cells(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def outputs_of_code(notebook: Any) -> list[list[str]]:
    """Returns the outputs of each code cell: texts, and the names of other kinds."""
    kinds = ("text/markdown", "image/png", "text/plain")
    every: list[list[str]] = []
    for cell in code_cells(notebook):
        every.append([])
        for output in cell.outputs:
            if output.get("name") == "stderr":  # warnings name the folder of the environment
                continue
            data = output.get("data", {})
            kind = next((kind for kind in kinds if kind in data), output.output_type)
            is_text = kind == "text/markdown"
            every[-1].append(data[kind] if is_text else output.get("text", kind))
    return every


def test_notebook_runs_and_shows_its_stored_outputs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FDPO_RESULTS", raising=False)
    stored = read(ROOT / "results.ipynb")
    fresh = copy.deepcopy(stored)
    NotebookClient(fresh, timeout=120, resources={"metadata": {"path": str(ROOT)}}).execute()
    assert outputs_of_code(fresh) == outputs_of_code(stored)
    assert sum(outputs.count("image/png") for outputs in outputs_of_code(stored)) >= 2


def test_notebook_shows_without_javascript() -> None:
    for cell in code_cells(read(ROOT / "results.ipynb")):
        for output in cell.outputs:
            assert output.output_type != "error"
            assert not {"text/html", "application/javascript"} & set(output.get("data", {}))


NUMBER = r"([−-]?\d*\.?\d+)"


def test_differences_in_the_first_cell_are_in_the_results() -> None:
    """Each ``DIFFERENCE (LOW to HIGH)`` is that of a question, and "undecided" where it is so."""
    rows = json.loads((ROOT / "results/text_questions.json").read_text())["rows"]
    for row in json.loads((ROOT / "results/slic_hf.json").read_text())["correlations"]:
        rows.append({**row, "difference": row["value"], "verdict": ""})
    first = read(ROOT / "results.ipynb").cells[0].source
    claimed = 0
    for sentence in first.splitlines():
        for words in re.findall(rf"{NUMBER} \({NUMBER} to {NUMBER}\)", sentence):
            values = [float(word.replace("−", "-")) for word in words]
            digits = len(words[0].partition(".")[2])
            verdicts = [
                row["verdict"]
                for row in rows
                if row["difference"] is not None
                and values == [round(row[end], digits) for end in ("difference", "low", "high")]
            ]
            assert verdicts, words
            assert "undecided" not in verdicts or "undecided" in sentence, words
            claimed += 1
    assert claimed >= 5


@pytest.mark.parametrize(
    ("options", "says"),
    [(("--parts", "txt"), "choose from text, slic_hf"), (("--quickly",), "unknown option")],
)
def test_wrong_options_of_the_driver(options: tuple[str, ...], says: str) -> None:
    command = [sys.executable, "-m", "experiments.results", *options]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 2
    assert says in result.stderr and len(result.stderr.splitlines()) <= 2


@pytest.mark.slow
def test_everything_on_a_small_scale(tmp_path: Path, pair_rows: list[dict[str, Any]]) -> None:
    completions = tmp_path / "scored.jsonl"
    groups = [
        {
            "prompt": one["prompt"],
            "completions": [one["chosen"], one["rejected"], two["chosen"] + two["rejected"]],
            "scores": [2, 1, 0],
        }
        for one, two in pairwise(pair_rows)
    ]
    completions.write_text("".join(json.dumps(row) + "\n" for row in groups))
    command = [
        sys.executable, "-m", "experiments.results", "--quick", "--runs", str(tmp_path),
        "--completions", str(completions),
    ]  # fmt: skip
    subprocess.run(command, check=True, cwd=ROOT)
    every = outputs_of_code(read(tmp_path / "results/results.ipynb"))
    assert not any("does not exist" in text for outputs in every for text in outputs)
    assert sum(outputs.count("image/png") for outputs in every) >= 8
    # The archive of the text sweep suffices: another machine resumes from it.
    shutil.rmtree(tmp_path / "sweep-imdb")
    shutil.rmtree(tmp_path / "dataset-sweep")
    again = subprocess.run(command, check=True, cwd=ROOT, capture_output=True, text=True)
    counts = re.findall(r"(\d+) runs, (\d+) of them finished", again.stdout)
    assert len(counts) == 5 and all(total == finished for total, finished in counts)
