"""The configuration of image training and the import of the package."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from diffusers.optimization import SchedulerType

import fdpo.diffusion
from fdpo.diffusion import models
from fdpo.diffusion.config import SCHEDULES, DiffusionConfig

WRONG = [
    ({"kappa": 0.0}, "--kappa must be a finite number above 0, got 0"),
    ({"kappa": -1.0}, "--kappa must be"),
    ({"kappa": 1.0, "true_weight": True}, "--kappa has no effect with --true_weight"),
    ({"beta": 0.0}, "--beta must be a finite number above 0"),
    ({"timesteps_per_pair": 0}, "--timesteps_per_pair must be"),
    ({"dpo_weight": 0.0}, "are all 0"),
    ({"sft_weight": -1.0}, "--sft_weight must be at least 0"),
    ({"loss": "kl"}, "loss 'kl'"),
    ({"loser_gradient": 2.0}, r"--loser_gradient must be in \[0, 1\]"),
    ({"ema_decay": 1.0}, r"--ema_decay must be in \[0, 1\)"),
    ({"rank": -1}, "--rank must be at least 0"),
    ({"lr_scheduler": "cosin"}, "--lr_scheduler 'cosin': choose from linear, cosine"),
    ({"optimizer": "adafactor", "adam_beta1": 0.5}, "--adam_beta1 has no effect"),
]


@pytest.mark.parametrize(("options", "message"), WRONG, ids=lambda value: str(value)[:30])
def test_wrong_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DiffusionConfig(**options)


def test_schedules_are_those_of_diffusers() -> None:
    assert SCHEDULES == tuple(kind.value for kind in SchedulerType)


def test_every_public_name_is_there() -> None:
    for name in fdpo.diffusion.__all__:
        assert getattr(fdpo.diffusion, name) is not None
    assert fdpo.diffusion.PicturePairs is fdpo.diffusion.ImagePairs
    assert fdpo.diffusion.DrawnPairs is fdpo.diffusion.PairDataset
    assert models.load is models.load_image_model and models.save is models.save_image_model
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        fdpo.diffusion.nothing  # noqa: B018


def test_the_package_imports_no_heavy_library() -> None:
    code = (
        "import sys, fdpo.diffusion.config, fdpo.diffusion.dataset, fdpo.tasks.mnist\n"
        "print({'accelerate', 'diffusers', 'peft', 'transformers'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parents[2], capture_output=True, text=True
    )
    assert done.stdout.strip() == "set()", done.stderr
