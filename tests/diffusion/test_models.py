"""Image models are read from safetensors, never from a pickle."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from fdpo.diffusion.models import WEIGHTS, load_image_model
from fdpo.tasks.mnist import CLASSIFIER, MODEL
from fdpo.tasks.mnist_classifier import load_classifier


def pickled(source: Path, folder: Path) -> None:
    """Copies a model with its weights in a pickle, beside other tensors in safetensors."""
    shutil.copytree(source, folder)
    safe = folder / f"{WEIGHTS}.safetensors"
    torch.save(load_file(safe), folder / f"{WEIGHTS}.bin")
    safe.rename(folder / "other.safetensors")


@pytest.mark.parametrize("pipeline", [False, True])
def test_a_pickled_model_is_refused_in_one_line(tmp_path: Path, pipeline: bool) -> None:
    folder = tmp_path / "model"
    pickled(MODEL, folder / "unet" if pipeline else folder)
    with pytest.raises(ValueError, match=rf"no weights .*; {WEIGHTS}.bin is not read") as error:
        load_image_model(str(folder))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("load, source", [(load_image_model, MODEL), (load_classifier, CLASSIFIER)])
def test_only_safetensors_are_read(
    tmp_path: Path, load: Callable[[str], Any], source: Path
) -> None:
    pickled(source, tmp_path / "model")
    with pytest.raises(ValueError, match=f"model: no weights in this folder .{WEIGHTS}.safe"):
        load(str(tmp_path / "model"))
    shutil.copyfile(source / f"{WEIGHTS}.safetensors", tmp_path / f"model/{WEIGHTS}.safetensors")
    (tmp_path / f"model/{WEIGHTS}.bin").write_bytes(b"not even a pickle")
    load(str(tmp_path / "model"))
