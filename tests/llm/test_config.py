"""Options of text training: defaults, and values that are refused at start."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from trl import DPOConfig

import fdpo
from fdpo.llm.config import FDPOConfig

REFUSED = [
    ({"f_divergence_type": "js_divergence"}, "--f_divergence_type 'js_divergence'.*--loss.*jsd"),
    ({"f_alpha_divergence_coef": 0.3}, "--f_alpha_divergence_coef.*--alpha"),
    ({"loss_type": ["ipo"]}, "--loss_type.*--loss"),
    ({"loss_type": ["sigmoid_norm"]}, "--loss_type.*no counterpart of sigmoid_norm.*--loss"),
    ({"loss_type": "sft"}, "--loss_type.*for sft use --sft_weight"),
    ({"loss_type": "robust"}, "--loss_type.*for robust use --preference robust"),
    ({"loss_type": ["sigmoid", "bco_pair", "sft"]}, "--sft_weight.*no counterpart of bco_pair"),
    ({"loss_weights": [2.0]}, "--loss_weights.*--sft_weight"),
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


@pytest.mark.parametrize("make", [DPOConfig, FDPOConfig])
@pytest.mark.parametrize(
    "options",
    [
        {"loss_type": "sigmoid"},
        {"loss_type": ["sigmoid"], "loss_weights": [1.0]},
        {"ld_alpha": 1.0},
    ],
    ids=lambda options: next(iter(options)),
)
def test_neutral_options_of_trl_are_accepted(
    tmp_path: Path, options: dict[str, Any], make: type[DPOConfig]
) -> None:
    args = FDPOConfig.from_trl(make(str(tmp_path), use_cpu=True, **options))
    assert args.resolve() == (fdpo.get_divergence("reverse_kl"), "logistic")


def test_a_configuration_of_trl_keeps_its_values_and_gets_our_defaults(tmp_path: Path) -> None:
    theirs = DPOConfig(
        str(tmp_path), use_cpu=True, beta=0.3, learning_rate=2e-5, max_length=77, bf16=False
    )
    theirs.warmup_steps = 9  # set later, as scripts do
    args = FDPOConfig.from_trl(theirs)
    for name in ("beta", "learning_rate", "max_length", "bf16", "warmup_steps", "device", "seed"):
        assert getattr(args, name) == getattr(theirs, name), name
    assert args.gradient_checkpointing is theirs.gradient_checkpointing
    assert (args.loss, args.tail, args.sft_weight, args.shared_prompts) == ("sigmoid", 10, 0, None)
    assert not args.remove_unused_columns and not args.logging_nan_inf_filter
    assert theirs.remove_unused_columns  # the caller's own object stays as it is
    assert "loss" in args.to_dict()


def test_a_configuration_of_trl_is_checked(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--loss_type.*for hinge use --loss hinge"):
        FDPOConfig.from_trl(DPOConfig(str(tmp_path), use_cpu=True, loss_type="hinge"))
    with pytest.raises(ValueError, match="--beta.*above 0"):
        FDPOConfig.from_trl(DPOConfig(str(tmp_path), use_cpu=True, beta=-1.0))
    with pytest.raises(TypeError, match="FDPOConfig or a DPOConfig, not str"):
        FDPOConfig.from_trl("out")
