"""Options of text training: defaults, and values that are refused at start."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

import fdpo
from fdpo.llm.config import FDPOConfig

REFUSED = [
    ({"f_divergence_type": "js_divergence"}, "--f_divergence_type 'js_divergence'.*--loss.*jsd"),
    ({"f_alpha_divergence_coef": 0.3}, "--f_alpha_divergence_coef.*--alpha"),
    ({"loss_type": ["ipo"]}, "--loss_type.*--loss"),
    ({"loss_type": ["sigmoid_norm"]}, "--loss_type.*--loss"),
    ({"ld_alpha": 0.5}, "--ld_alpha"),
    ({"use_weighting": True}, "--use_weighting"),
    ({"label_smoothing_factor": 0.1}, "--label_smoothing_factor.*--label_smoothing"),
    ({"remove_unused_columns": True}, "--remove_unused_columns"),
    ({"loss": "kl"}, "reverse_kl"),
    ({"loss": "jsd", "alpha": 0.5}, "alpha"),
    ({"loss": "alpha", "alpha": math.nan}, "alpha"),
    ({"loss": "alpha", "alpha": math.inf}, "alpha"),
    ({"beta": 0.0}, "--beta.*above 0"),
    ({"beta": math.nan}, "--beta"),
    ({"preference": "ranked"}, "--preference 'ranked'.*hinge"),
    ({"sft_weight": -1.0}, "--sft_weight"),
    ({"label_smoothing": 0.5}, "--label_smoothing"),
    ({"tail": 0.0}, "--tail"),
    ({"loser_gradient": 1.5}, "--loser_gradient"),
    ({"loss": "alpha", "alpha": 0.5, "loss_args": {"alpha": 0.3}}, "holds alpha already"),
]


@pytest.mark.parametrize(("options", "message"), REFUSED, ids=lambda v: str(v)[:40])
def test_refused_at_start(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        FDPOConfig(output_dir=str(tmp_path), **options)
    assert "\n" not in str(error.value)


def test_defaults_run_bare_on_a_cpu(tmp_path: Path) -> None:
    args = FDPOConfig(output_dir=str(tmp_path), use_cpu=True)
    assert (args.bf16, args.gradient_checkpointing, args.device.type) == (False, False, "cpu")
    assert args.beta == 0.1 and args.tail == 10.0 and not args.match_curvature


def test_alpha_may_be_given_either_way(tmp_path: Path) -> None:
    for options in ({"alpha": 0.3}, {"loss_args": {"alpha": 0.3}}, {"loss_args": '{"alpha": 0.3}'}):
        args = FDPOConfig(output_dir=str(tmp_path), loss="alpha", **options)
        assert args.resolve() == (fdpo.get_divergence("alpha", alpha=0.3), "logistic")
