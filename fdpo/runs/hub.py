"""The Hugging Face hub: ids and uploads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from fdpo.runs.outside import note_outside

HIDDEN = [".*", "*/.*"]
"""Files that are being written, and what killed writers left (:mod:`fdpo.runs.files`)."""


def is_hub_id(name: str) -> bool:
    """Returns whether a name that is no file or folder can be that of a repository, owner/name."""
    return name.count("/") == 1 and not name.startswith((".", "/", "~"))


def upload(
    folder: Path,
    hub_id: str,
    patterns: Sequence[str],
    *,
    kind: Literal["model", "dataset"] = "model",
) -> str:
    """Uploads files of a folder to a repository of the hub, which is created where it is missing.

    Arguments:
        folder: The folder.
        hub_id: The repository, owner/name.
        patterns: The files to upload, as glob patterns; hidden ones are not.
        kind: What the repository holds.

    Returns:
        The address of the commit.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.utils import filter_repo_objects

    files = (str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    note_outside(filter_repo_objects(files, allow_patterns=list(patterns)), folder)
    HfApi().create_repo(hub_id, repo_type=kind, exist_ok=True)
    return str(
        HfApi().upload_folder(
            repo_id=hub_id,
            repo_type=kind,
            folder_path=folder,
            allow_patterns=list(patterns),
            ignore_patterns=HIDDEN,
        )
    )
