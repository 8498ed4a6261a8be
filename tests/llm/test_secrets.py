"""A token of the configuration is in no file that a trainer writes of it."""

from __future__ import annotations

import zipfile
from copy import deepcopy
from pathlib import Path

import torch
from trl import DPOConfig

from fdpo.llm import FDPOConfig

TOKEN = "hf_planted_in_python"


def test_pickled_and_logged_options_hold_no_token(tmp_path: Path) -> None:
    given = {"token": TOKEN, "dtype": "float32"}
    args = FDPOConfig(str(tmp_path), hub_token=TOKEN, model_init_kwargs=given, report_to="none")
    for config in (
        args,
        FDPOConfig.from_trl(DPOConfig(str(tmp_path), hub_token=TOKEN, bf16=False)),
    ):
        torch.save(config, file := tmp_path / "training_args.bin")
        with zipfile.ZipFile(file) as parts:
            assert not any(TOKEN.encode() in parts.read(name) for name in parts.namelist())
        assert TOKEN not in str(config.to_dict()) + config.to_json_string()
        assert config.hub_token == deepcopy(config).hub_token == TOKEN  # an upload has it still
    assert args.model_init_kwargs == given
    loaded = torch.load(tmp_path / "training_args.bin", weights_only=False)
    assert loaded.hub_token is None and loaded.beta == args.beta
