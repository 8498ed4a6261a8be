"""The training program: a whole run, resuming, quiet output, and every wrong input."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from tests.programs.train_dpo.conftest import Run, refused, write


@pytest.fixture
def pairs(pair_rows: list[dict[str, str]], tmp_path: Path) -> Path:
    return write(tmp_path / "pairs.jsonl", pair_rows)


SMALL = ("--per_device_train_batch_size", 4, "--eval_samples", 2, "--eval_tokens", 24)


def test_a_run_leaves_what_its_folder_promises(
    train: Run, pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--loss", "alpha", "--alpha", 0.5, "--test_share", 0.25, *SMALL)
    train("--dataset", pairs, *options, "--output_dir", "out")
    out = tmp_path / "out"
    record = json.loads((out / "run.json").read_text())
    assert record["options"]["alpha"] == 0.5 and record["options"]["loss"] == "alpha"
    metrics = json.loads((out / "metrics.json").read_text())
    names = {"vader", "entropy", "distinct_2", "reverse_kl", "js", "pairs_accuracy", "pairs_nll"}
    assert 0 <= metrics["pairs_ece"] <= 1
    assert names | {f"{name}_se" for name in names} <= metrics.keys()
    assert metrics["steps"] == 3  # 12 of 16 pairs, by 4
    assert "one sample holds" in metrics.pop("warnings")["reverse_kl"]  # there are eight
    assert all(math.isfinite(value) for value in metrics.values())
    steps = [json.loads(line) for line in (out / "log.jsonl").open()]
    assert any("tail_fraction" in step for step in steps)
    assert load_file(out / "model.safetensors")
    assert "alpha(0.5)" in (out / "README.md").read_text()
    assert (out / "samples.md").read_text().count("- after: ") == 4
    samples = [json.loads(line) for line in (out / "samples.jsonl").open()]
    policy = [row for row in samples if row["model"] == "policy"]
    assert len(policy) == 2 * 4 == len(samples) / 2
    vader = sum(row["reward/vader"] for row in policy) / len(policy)
    assert vader == pytest.approx(metrics["vader"], abs=1e-6)
    held_out = [json.loads(line) for line in (out / "held_out_pairs.jsonl").open()]
    right = [(row["margin"] > 0) + (row["margin"] == 0) / 2 for row in held_out]
    assert len(held_out) == 4 and all(row["prompt"] for row in held_out)
    assert sum(right) / 4 == pytest.approx(metrics["pairs_accuracy"])
    printed = capsys.readouterr().out
    assert "16 pairs made of 16 candidates" in printed
    assert re.search(r"reverse_kl +\S+ ± \S+", printed)


def test_a_resumed_run_has_the_same_weights(train: Run, pairs: Path, tmp_path: Path) -> None:
    options = ("--dataset", pairs, "--loss", "jsd", *SMALL, "--eval_num_prompts", 0)
    train(*options, "--output_dir", "whole", "--save_steps", 2, "--save_total_limit", 3)
    train(*options, "--output_dir", "resumed", "--save_steps", 2, "--save_total_limit", 3)
    for name in ("metrics.json", "model.safetensors"):
        (tmp_path / "resumed" / name).unlink()
    for file in (tmp_path / "resumed" / "checkpoint-4").iterdir():
        file.unlink()
    (tmp_path / "resumed/checkpoint-2/manifest.json").unlink()  # version 0.1 had none
    state = tmp_path / "resumed/checkpoint-2/trainer_state.json"
    saved = json.loads(state.read_text())
    clock = saved["stateful_callbacks"].pop("TrainingClock")
    clock["attributes"]["seconds"] += 1000
    saved["stateful_callbacks"]["Seconds"] = clock  # as version 0.1 wrote it
    state.write_text(json.dumps(saved))
    train(
        *options, "--output_dir", "resumed", "--save_steps", 2, "--save_total_limit", 3,
        "--resume_from_checkpoint", "last",
    )  # fmt: skip
    whole, resumed = (load_file(tmp_path / n / "model.safetensors") for n in ("whole", "resumed"))
    assert all((whole[name] == resumed[name]).all() for name in whole)
    metrics = json.loads((tmp_path / "resumed/metrics.json").read_text())
    assert 1000 < metrics["train_seconds"] < 1600  # with those of the first part


def test_a_finished_run_can_be_extended(train: Run, pairs: Path, tmp_path: Path) -> None:
    constant = ("--lr_scheduler_type", "constant", "--warmup_steps", 0, "--save_steps", 4)
    options = ("--dataset", pairs, *SMALL, *constant, "--eval_num_prompts", 0)
    train(*options, "--output_dir", "whole", "--num_train_epochs", 2)
    train(*options, "--output_dir", "extended")
    short = json.loads((tmp_path / "extended/metrics.json").read_text())
    train(
        *options, "--output_dir", "extended", "--num_train_epochs", 2, "--save_total_limit", 2,
        "--resume_from_checkpoint", "last",
    )  # fmt: skip
    metrics = json.loads((tmp_path / "extended/metrics.json").read_text())
    assert (short["steps"], metrics["steps"]) == (4, 8)
    whole, extended = (load_file(tmp_path / n / "model.safetensors") for n in ("whole", "extended"))
    assert all((whole[name] == extended[name]).all() for name in whole)


def test_a_loss_on_the_command_line_discards_the_alpha_of_a_preset(
    train: Run, pairs: Path, tmp_path: Path
) -> None:
    preset = tmp_path / "preset.yaml"
    preset.write_text(f"loss: alpha\nalpha: 0.3\ndataset: {pairs}\nlearning_rate: 1e-4\n")
    train("--config", preset, "--loss", "jsd", "--eval_num_prompts", 0, "--max_steps", 1)
    options = json.loads((tmp_path / "runs/train_dpo-jsd/run.json").read_text())["options"]
    assert (options["loss"], options["alpha"], options["learning_rate"]) == ("jsd", None, 1e-4)


def test_prompts_that_merge_with_completions_are_counted_in_one_line(
    train: Run,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    rows = [
        {"prompt": f"{'the film ' * i}the fi", "chosen": "lm was fine", "rejected": "lm was bad"}
        for i in range(3)
    ]
    rows += [{"prompt": f"the film {i}", "chosen": " a", "rejected": " b"} for i in range(3)]
    data = write(tmp_path / "data.jsonl", rows)
    train("--dataset", data, "--test_share", 0, "--eval_num_prompts", 0, "--max_steps", 1)
    printed = capfd.readouterr()
    assert "3 of 6 prompts lose their last tokens" in printed.out
    assert "not a prefix" not in printed.out + printed.err + caplog.text


@pytest.mark.parametrize("option", ["--eval_num_prompts", "--eval_openings"])
def test_the_old_name_of_an_option_still_works(
    train: Run, pairs: Path, tmp_path: Path, option: str
) -> None:
    train("--dataset", pairs, option, 0, "--max_steps", 1, "--output_dir", "out")
    options = json.loads((tmp_path / "out/run.json").read_text())["options"]
    assert options["eval_num_prompts"] == 0 and "eval_openings" not in options
    assert not (tmp_path / "out/samples.md").exists()


GROUP = {"prompt": "the film", "completions": [" was fine", " was bad"], "scores": [1.0, -1.0]}
WRONG_ROWS = [
    ([], "empty file"),
    ([GROUP, "[1"], r"row 2: .*"),
    ([{"prompt": "a", "chosen": "b"}], "no column rejected"),
    ([{"text": "a"}], "neither pairs .* nor groups .* found the columns text"),
    ([GROUP, {**GROUP, "completions": [" x"], "scores": [1.0]}], "row 2: .*at least two"),
    ([GROUP, {**GROUP, "scores": [1.0, math.nan]}], r"row 2: scores\[1\] is nan"),
    ([{**GROUP, "scores": [1.0, 1.0]}], "no pair is left .*equal scores"),
    (
        [{"prompt": "the", "answers": ["a film", "one"], "rm_scores": [1.0, 2.0]}],
        "no answer begins with its prompt",
    ),
    (
        [{"prompt": f"{i} the film " * 80, "chosen": "a", "rejected": "b"} for i in range(3)],
        "train_dataset: no pair is left, every prompt fills --max_length 64: .* keep_end",
    ),
]


@pytest.mark.parametrize(("rows", "message"), WRONG_ROWS, ids=lambda value: str(value)[:30])
def test_wrong_data_is_one_line_and_leaves_nothing(
    train: Run,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    rows: list[Any],
    message: str,
) -> None:
    file = tmp_path / "data.jsonl"
    file.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows))
    refused(train, capsys, message, "--dataset", file, "--test_share", 0)
    assert not (tmp_path / "runs").exists()


WRONG_OPTIONS = [
    (("--loss", "kl"), r"unknown loss 'kl' \(did you mean reverse_kl or"),
    (("--loss", "alpha", "--alpha", "nan"), "alpha must be a finite number"),
    (("--loss", "alpha", "--alpha", "inf"), "alpha must be a finite number"),
    (("--loss", "jsd", "--alpha", 0.5), "alpha"),
    (("--beta", 0), "--beta must be a finite number above 0"),
    (("--beta", -1), "--beta must be a finite number above 0"),
    (("--f_divergence_type", "js_divergence"), "--f_divergence_type .* use --loss"),
    (("--loss_args", "t"), "--loss_args: a JSON object"),
    (
        ("--loss", "alpha", "--alpha", 0.5, "--loss_args", '{"alpha": 1}'),
        "--alpha 0.5: --loss_args .* holds alpha already",
    ),
    (("--k", 2, "--rule", "all"), "k: no effect with the rule all"),
    (("--k", 2, "--min_gap", 0.1), "pairs.jsonl holds pairs already: k would only rank"),
    (("--dataset", "nowhere.jsonl"), "nowhere.jsonl"),
    (("--model", "./nowhere"), "model ./nowhere: no such folder"),
    (("--scorers", "nobody:nothing"), "scorer nobody:nothing"),
    (("--resume_from_checkpoint", "last"), "--resume_from_checkpoint last"),
    (("--lerning_rate", 1), "unknown option --lerning_rate; did you mean --learning_rate"),
    (("--eval_samples", 0), "--eval_samples must be at least 1, got 0"),
    (("--eval_tokens", 0), "--eval_tokens must be at least 1, got 0"),
    (("--eval_num_prompts", -1), "--eval_num_prompts must be at least 0, got -1"),
    (("--config", "nowhere.yaml"), "--config: there is no file nowhere.yaml"),
]


@pytest.mark.parametrize(("options", "message"), WRONG_OPTIONS, ids=lambda value: str(value)[:40])
def test_wrong_options_are_one_line_and_leave_nothing(
    train: Run,
    pairs: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: tuple[Any, ...],
    message: str,
) -> None:
    refused(train, capsys, message, "--dataset", pairs, *options)
    assert not (tmp_path / "runs").exists()


def test_a_model_folder_without_weights(
    train: Run, pairs: Path, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare/config.json").write_text((tiny_model / "config.json").read_text())
    message = r"model bare: no weights in this folder \(\*.safetensors\)"
    refused(train, capsys, message, "--dataset", pairs, "--model", "bare")


def test_a_folder_that_holds_another_run(
    train: Run, pairs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--dataset", pairs, "--eval_num_prompts", 0, "--max_steps", 1, "--output_dir", "out")
    train(*options)
    refused(train, capsys, "--output_dir out already holds a run", *options)
    changed = (*options, "--beta", 0.5, "--resume_from_checkpoint", "last")
    refused(train, capsys, "other options .*beta 0.1 -> 0.5", *changed)
