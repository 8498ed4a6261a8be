"""The files of results that the notebook loads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from experiments.report import Report


def test_report_loads_files_and_names_their_commits(tmp_path: Path) -> None:
    commit = "0123456789abcdef-dirty"
    (tmp_path / "one.json").write_text(json.dumps({"commit": commit, "rows": [1]}))
    report = Report(tmp_path)
    assert report.load("one.json")["rows"] == [1]
    assert report.provenance().splitlines()[1:] == ["one.json 0123456789-dirty"]


def test_missing_file_is_a_note(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = Report(tmp_path)
    assert report.load("text_curves.json") is None
    assert "text_curves.json does not exist" in capsys.readouterr().out
    assert len(report.provenance().splitlines()) == 1


def test_folder_comes_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FDPO_RESULTS", str(tmp_path))
    assert Report().folder == tmp_path
