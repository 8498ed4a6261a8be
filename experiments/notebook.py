"""Execution of results.ipynb on a folder of results."""

from __future__ import annotations

import base64
import io
import os
from pathlib import Path

from fdpo import runs

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOK = "results.ipynb"


def execute(results: str | Path) -> Path:
    """Runs the notebook on a folder of results and returns the notebook's path.

    The repository's own results go into the repository's notebook, others into a copy beside them.
    """
    import nbformat
    from nbclient import NotebookClient

    folder = Path(results).resolve()
    os.environ["FDPO_RESULTS"] = str(folder)
    notebook = nbformat.read(ROOT / NOTEBOOK, as_version=4)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(ROOT)}}).execute()
    for cell in notebook.cells:
        if "outputs" in cell:  # warnings name the folder of the environment
            cell.outputs = [one for one in cell.outputs if one.get("name") != "stderr"]
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if "image/png" in data:
                data["image/png"] = compress_png(data["image/png"])
    target = (ROOT if folder == ROOT / "results" else folder) / NOTEBOOK
    with runs.replacing(target) as beside:
        nbformat.write(notebook, beside)
    return target


def compress_png(image: str) -> str:
    """Returns a PNG with a palette of 256 colours, a third of its size; both in base64."""
    from PIL import Image

    source, output = Image.open(io.BytesIO(base64.b64decode(image))), io.BytesIO()
    source.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(output, "PNG", optimize=True)
    return base64.b64encode(output.getvalue()).decode()
