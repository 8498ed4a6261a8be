"""Files outside a folder are named before anything of them is uploaded."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import HfApi

from fdpo.runs.hub import upload
from fdpo.runs.outside import note_outside


def test_files_outside_are_counted_in_one_line(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    (folder / "in").mkdir(parents=True)
    (folder / "in/out").symlink_to(tmp_path)
    with pytest.warns(UserWarning) as warned:
        note_outside(["in/a", "in/out/b", "../c", str(tmp_path / "d"), "in/../e"], folder)
    [line] = [str(one.message) for one in warned]
    first = f"{folder}/in/out/b = {tmp_path}/b"
    assert line == f"outside {folder}, to be read as its data: {first} and 2 more"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        note_outside(["a", "in/b", str(folder / "c")], folder)


def test_an_upload_names_links_that_lead_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, private = tmp_path / "data", tmp_path / "private"
    (folder / "pictures").mkdir(parents=True)
    private.touch()
    (folder / "pictures/a.png").symlink_to(private)
    (folder / "notes").symlink_to(private)  # which no pattern uploads
    done: list[Any] = []
    monkeypatch.setattr(HfApi, "create_repo", lambda *_, **__: None)
    monkeypatch.setattr(HfApi, "upload_folder", lambda *_, **options: done.append(options))
    with pytest.warns(UserWarning, match=r"data: .*/pictures/a.png = .*/private$"):
        upload(folder, "owner/name", ["*.jsonl", "pictures/*.png"])
    assert len(done) == 1
