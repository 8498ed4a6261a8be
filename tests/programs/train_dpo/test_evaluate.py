"""The program that compares a trained model with its reference, on samples and held-out pairs."""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from fdpo import get_divergence
from fdpo.estimators.calibration import calibration
from fdpo.llm.generation.scores import completion_log_probs
from fdpo.llm.models import load_model, load_tokenizer
from tests.conftest import sentence

LOSS = {"loss": "alpha", "alpha": 0.5, "beta": 0.3, "tail": 10.0, "match_curvature": True}
SMALL = ("--num_prompts", 3, "--samples", 2, "--max_new_tokens", 6, "--scorers", "vader")
Run = Callable[..., None]


@pytest.fixture(scope="module")
def policy(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that moved the tiny model."""
    folder = tmp_path_factory.mktemp("run")
    model = load_model(str(tiny_model))
    torch.manual_seed(0)
    for parameter in model.parameters():
        parameter.data += 0.03 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    options = {**LOSS, "model_name_or_path": str(tiny_model), "max_length": 64}
    (folder / "run.json").write_text(json.dumps({"options": options}))
    return folder


@pytest.fixture
def evaluate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    program = importlib.import_module("fdpo.programs.train_dpo.evaluate")
    monkeypatch.chdir(tmp_path)

    def run(*options: object) -> None:
        monkeypatch.setattr("sys.argv", ["evaluate.py", *map(str, options)])
        program.main()

    return run


def test_metrics_of_samples_and_of_held_out_pairs(
    evaluate: Run,
    policy: Path,
    tiny_model: Path,
    pair_rows: list[dict[str, str]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pairs = tmp_path / "pairs.jsonl"
    rows: list[dict[str, Any]] = [
        {**row, "rejected_truncated": i % 2 == 0} for i, row in enumerate(pair_rows)
    ]
    pairs.write_text("".join(json.dumps(row) + "\n" for row in rows))
    evaluate("--model", policy, *SMALL, "--pairs", pairs, "--output_dir", "out")
    metrics = json.loads((tmp_path / "out/evaluation.json").read_text())
    assert metrics["trained_divergence"] == pytest.approx(metrics["alpha_0.5"])
    both = {"vader", "entropy", "distinct_2", "self_bleu", "vendi_score"}
    one = {"reverse_kl", "reverse_kl_rao_blackwell", "forward_kl", "js", "jeffreys"}
    names = one | both | {f"base_{name}" for name in both}
    assert all(math.isfinite(metrics[name]) and metrics[f"{name}_se"] >= 0 for name in names)
    printed = capsys.readouterr().out
    assert "16 held-out pairs: accuracy" in printed
    assert printed.count("\n! ") == len(metrics["warnings"])

    # The program asks the trainer; here is the formula, with tokens from the tokenizer.
    tokenizer = load_tokenizer(str(tiny_model))
    models = load_model(str(policy)), load_model(str(tiny_model))
    ratios = []
    for side in ("chosen", "rejected"):
        starts = [tokenizer(row["prompt"])["input_ids"] for row in rows]
        ends = [
            tokenizer(row["prompt"] + row[side])["input_ids"][len(start) :]
            + [tokenizer.eos_token_id] * (not row.get(f"{side}_truncated"))
            for row, start in zip(rows, starts, strict=True)
        ]
        policy_values, base = (
            completion_log_probs(model, starts, ends).log_probs for model in models
        )
        ratios.append(policy_values - base)
    margins = 0.3 * get_divergence("alpha", alpha=0.5).difference(*ratios)
    expected = calibration(margins).metrics("pairs_")
    assert {name: metrics[name] for name in expected} == pytest.approx(expected, rel=1e-3, abs=1e-5)


def test_samples_of_the_reference_are_cached_unless_the_cache_is_off(
    evaluate: Run, policy: Path, tmp_path: Path
) -> None:
    given = ("--model", policy, *SMALL, "--reference_cache", "cache")
    evaluate(*given, "--output_dir", "first")
    [cached] = (tmp_path / "cache").iterdir()
    before = cached.stat().st_mtime_ns
    evaluate(*given, "--output_dir", "second")
    evaluate("--model", policy, *SMALL, "--reference_cache", "off", "--output_dir", "third")
    assert cached.stat().st_mtime_ns == before and not (tmp_path / "off").exists()
    first, *others = (
        (tmp_path / name / "samples.jsonl").read_text() for name in ("first", "second", "third")
    )
    assert others == [first, first]


def test_wrong_options_are_one_line_and_leave_nothing(
    evaluate: Run,
    policy: Path,
    tiny_model: Path,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path_factory.mktemp("inputs")
    long = folder / "long.jsonl"
    rows = [{"prompt": sentence(i, 90), "chosen": " a", "rejected": " b"} for i in range(2)]
    long.write_text("".join(json.dumps(row) + "\n" for row in rows))
    broken = "def score(prompts, texts):\n    return [float('nan')] * len(texts)\n"
    (folder / "broken_scorer.py").write_text(broken)
    monkeypatch.syspath_prepend(folder)
    for options, message in [
        (("--model", policy, "--pairs", "nowhere.jsonl"), "nowhere.jsonl: no such file"),
        (
            ("--model", tiny_model, "--reference", tiny_model, "--pairs", "pairs.jsonl"),
            "--pairs needs beta and divergence",
        ),
        (("--model", tiny_model), "no run.json in it; name its --reference"),
        (("--model", policy, "--samples", 0), "--samples must be at least 1, got 0"),
        (("--model", policy, "--max_new_tokens", 60), "exceeds the model's context of 64"),
        (("--model", policy, "--scorers", "broken_scorer:score"), "score nan"),
        (("--model", policy, "--output_dir", policy / "run.json"), "is a file"),
        (("--model", policy, "--pairs", long), "no pair is left, every prompt fills --max_length"),
    ]:
        with pytest.raises(SystemExit) as stop:
            evaluate(*SMALL, *options)
        assert stop.value.code == 2 and message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_pairs_beyond_the_context_are_counted_and_shortened(
    evaluate: Run,
    policy: Path,
    tiny_model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The record of a run may hold a max_length beyond the context, as by default."""
    run = tmp_path / "run"
    run.mkdir()
    (run / "model.safetensors").symlink_to(policy / "model.safetensors")
    (run / "config.json").symlink_to(policy / "config.json")
    options = {**LOSS, "model_name_or_path": str(tiny_model), "max_length": 1024}
    (run / "run.json").write_text(json.dumps({"options": options}))
    rows = [
        {"prompt": sentence(0, 90), "chosen": " a", "rejected": " b"},
        {"prompt": sentence(1, 3), "chosen": sentence(2, 90), "rejected": " b"},
        {"prompt": sentence(3, 3), "chosen": " a", "rejected": " a"},
    ]
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text("".join(json.dumps(row) + "\n" for row in rows))
    evaluate("--model", run, *SMALL, "--pairs", pairs, "--output_dir", "out")
    printed = capsys.readouterr().out
    assert "1 held-out pairs: accuracy" in printed
    assert "dropped: 1 equal texts, 1 prompts too long" in printed
