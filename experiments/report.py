"""Files of results that results.ipynb shows, and the commits that made them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from fdpo.runs import read_json


class Report:
    """A folder of results.

    Arguments:
        folder: The folder; by default the one that ``FDPO_RESULTS`` names, else ``results``.

    Attributes:
        commits: The commits behind each file that was loaded.
    """

    def __init__(self, folder: str | Path | None = None) -> None:
        self.folder = Path(folder or os.environ.get("FDPO_RESULTS", "results"))
        self.commits: dict[str, list[str]] = {}

    def load(self, name: str) -> Any:
        """Returns the contents of a file, None with a printed note if it does not exist."""
        path = self.folder / name
        if not path.exists():
            print(f"{name} does not exist: see python -m experiments.results --help")
            return None
        content = read_json(path)
        self.commits[name] = content.get("commits") or [content.get("commit")]
        return content

    def provenance(self) -> str:
        """Returns the command of the results and the commits of each file."""
        lines = ["python -m experiments.results --completions FILE"]
        lines += [" ".join([name, *map(short, commits)]) for name, commits in self.commits.items()]
        return "\n".join(lines)


def short(commit: str | None) -> str:
    """Returns the first digits of a commit, with a mark if files had changed since."""
    name, dash, dirty = str(commit).partition("-")
    return name[:10] + dash + dirty
