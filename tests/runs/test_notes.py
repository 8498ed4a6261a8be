"""Notes to the user."""

from __future__ import annotations

import warnings

import pytest

from fdpo.runs.notes import note


def test_the_first_process_speaks_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.warns(UserWarning, match="^worth knowing$"):
        note("worth knowing")
    monkeypatch.setenv("RANK", "1")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        note("worth knowing")
