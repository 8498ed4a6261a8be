"""Secrets leave the options for the environment, and no record holds them."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from fdpo.runs.folder import prepare
from fdpo.runs.secrets import redacted, to_environment, without_secrets

TOKEN = "hf_planted'in\"options"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "before")


@pytest.mark.parametrize(
    "options",
    [
        {"hub_token": TOKEN},
        {"hub_token": [TOKEN, TOKEN], "beta": [1, 2]},  # of a grid
        {"model_init_kwargs": {"token": TOKEN, "dtype": "float32"}},
        {"a": {"b": [{"use_auth_token": TOKEN}]}},
    ],
)
def test_tokens_go_to_the_environment(options: dict[str, Any]) -> None:
    left = to_environment(options)
    assert "planted" not in str(left) and os.environ["HF_TOKEN"] == TOKEN
    assert "planted" in str(options)  # which are the caller's


def test_what_is_no_token_stays() -> None:
    options = {
        "a": {"token": True, "pad_token": "<pad>"},
        "use_auth_token": False,
        "hub_token": None,
    }
    assert to_environment(options) == options and os.environ["HF_TOKEN"] == "before"


def test_two_tokens_or_other_secrets_are_refused() -> None:
    with pytest.raises(ValueError, match="two different tokens"):
        to_environment({"hub_token": "a", "model_init_kwargs": {"token": "b"}})
    for name in ("api_key", "OPENAI_API_KEY", "password", "client_secret"):
        with pytest.raises(ValueError, match=f"{name} is a secret"):
            to_environment({"model_init_kwargs": {name: "x"}})
        assert without_secrets({"a": [{name: "x", "b": 1}]}) == {"a": [{"b": 1}]}


def test_recorded_commands_have_stars(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_planted")
    monkeypatch.setenv("WANDB_API_KEY", "0123456789abcdef")
    words = ["--hub-token=other", "--model_init_kwargs", '{"token": "hf_planted"}']
    monkeypatch.setattr(sys, "argv", ["train.py", *words, "0123456789abcdef"])
    folder = prepare(tmp_path / "run", {"hub_token": "hf_planted", "a": {"token": "hf_planted"}})
    record = (folder / "run.json").read_text(encoding="utf-8")
    assert not any(secret in record for secret in ("planted", "other", "0123456789"))
    assert redacted("--beta 1 --loss jsd") == "--beta 1 --loss jsd"
