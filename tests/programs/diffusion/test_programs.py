"""The image programs as their users meet them, on a tiny model, and every wrong input."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from fdpo.diffusion import DDPM, Flow, PixelUNet
from fdpo.diffusion.models import load_image_model, save_image_model
from fdpo.preferences.schema import read_groups, read_pairs
from fdpo.runs.rows import read_rows
from fdpo.tasks.mnist_classifier import NONE, DigitClassifier, judge, save_real_features

ROOT = Path(__file__).parents[3]
Program = Callable[[str], ModuleType]
Run = Callable[..., None]


@pytest.fixture
def run(program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a program in a folder with the tiny models ddpm, flow and classifier."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    for name, process in (("ddpm", DDPM()), ("flow", Flow())):
        model = PixelUNet(block_out_channels=(8, 16), norm_num_groups=4)
        save_image_model(model, process, name, half=True)
    classifier = DigitClassifier(width=4, features=8)
    classifier.head[-1].bias.data[NONE] = -9.0  # every sample counts as a digit
    classifier.save_pretrained("classifier")
    images = torch.rand(40, 1, 28, 28) * 2 - 1
    save_real_features("classifier", judge(classifier, images), torch.arange(40) % 10)

    def command(path: str, *options: object) -> None:
        monkeypatch.setattr(sys, "argv", [Path(path).name, *map(str, options)])
        program(path).main()

    return command


SMALL = (
    "--classifier", "classifier", "--eval_samples", 12, "--sampling_steps", 2,
    "--max_train_steps", 3, "--train_batch_size", 2, "--use_cpu",
)  # fmt: skip
PRESET = ROOT / "fdpo/programs/configs/diffusion/dpo_toy.yaml"
MAKE = (
    "--modality", "image", "--model", "ddpm", "--classifier", "classifier", "--num_groups", 3,
    "--completions", 4, "--sampling_steps", 2,
)  # fmt: skip


@pytest.mark.parametrize("model", ["ddpm", "flow"])
@pytest.mark.parametrize("rank", [0, 2])
def test_from_samples_to_a_run_folder(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], model: str, rank: int
) -> None:
    run("dataset/main.py", *MAKE, "--output_dir", "pairs")
    run(
        "diffusion/train.py", "--model", model, "--data", "pairs", "--loss", "alpha", "--alpha",
        0.5, "--rank", rank, *SMALL, "--output_dir", "out",
    )  # fmt: skip
    out = tmp_path / "out"
    metrics = json.loads((out / "metrics.json").read_text())
    names = {"share", "out_of_distribution", "path_kl"}
    assert names | {f"{name}_se" for name in names} | {"variety", "base_variety"} <= metrics.keys()
    assert {"log_ratio_chosen_q50", "log_ratio_rejected_q95", "train_seconds"} <= metrics.keys()
    assert all(math.isfinite(value) for value in metrics.values()) and metrics["steps"] == 3
    assert json.loads((out / "run.json").read_text())["options"]["alpha"] == 0.5
    for name in ("samples.png", "histogram.png"):
        assert Image.open(out / name).size[0] > 500
    policy, process = load_image_model(str(out))
    base, same = load_image_model(model)
    assert type(process) is type(same) and type(policy) is type(base)
    moved = {
        name
        for name, value in policy.state_dict().items()
        if (value != base.state_dict()[name]).any()
    }
    assert moved and (not rank or all("conv" in name or "attentions" in name for name in moved))
    sample = ("diffusion/sample.py", "--model", "out", "--sampling_steps", 2, "--samples")
    capsys.readouterr()
    run(*sample, 4, "--columns", 2, "--classifier", "classifier")
    assert Image.open("samples.png").size == (62, 62)
    shares = re.findall(r"^ *(\d|none)  ([\d.]+) ±", capsys.readouterr().out, re.MULTILINE)
    assert len(shares) == 11 and sum(float(share) for _, share in shares) == pytest.approx(1)
    run(*sample, 2, "--classifier", "none", "--output", "single")
    assert len(list(Path("single").glob("*.png"))) == 2
    run(
        "diffusion/evaluate.py", "--model", "out", "--reference", model, "--classifier",
        "classifier", "--eval_samples", 12, "--sampling_steps", 2, "--output_dir", "again",
    )  # fmt: skip
    again = json.loads(Path("again/metrics.json").read_text())
    assert again["share"] == metrics["share"] and again["base_share"] == metrics["base_share"]


def test_image_data_sets_rank_the_samples(run: Run, tmp_path: Path) -> None:
    run("dataset/main.py", *MAKE, "--output_dir", "pairs", "--rule", "best_worst", "--target", 7)
    groups = read_groups("pairs/groups.jsonl")
    assert len(groups) == 3 and all(len(group.completions) == 4 for group in groups)
    pairs = read_pairs("pairs/train.jsonl")
    for group, pair in zip(groups, pairs, strict=True):
        assert pair.chosen == group.completions[group.scores.index(max(group.scores))]
        assert pair.chosen_score == max(group.scores) and pair.rejected_score == min(group.scores)
        assert all((tmp_path / "pairs" / path).exists() for path in group.completions)
    assert "unconditional-image-generation" in Path("pairs/README.md").read_text()
    before = {path.name: path.read_bytes() for path in Path("pairs/pictures").iterdir()}
    Path("pairs/README.md").unlink()  # as if it had been interrupted
    Path("pairs/pictures/000011.png").unlink()
    run("dataset/main.py", *MAKE, "--output_dir", "pairs", "--rule", "best_worst", "--target", 7)
    assert before == {path.name: path.read_bytes() for path in Path("pairs/pictures").iterdir()}


def test_an_interrupted_run_resumes_to_the_same_weights(run: Run) -> None:
    run("dataset/main.py", *MAKE, "--output_dir", "pairs")
    options = (
        "--model", "ddpm", "--data", "pairs", *SMALL, "--eval_samples", 0,
        "--checkpointing_steps", 2, "--max_train_steps", 4, "--checkpoints_total_limit", 2,
    )  # fmt: skip
    run("diffusion/train.py", *options, "--output_dir", "whole")
    run("diffusion/train.py", *options, "--output_dir", "parts")
    for name in ("metrics.json", "checkpoint-4/trainer_state.json"):
        Path("parts", name).unlink()
    run("diffusion/train.py", *options, "--output_dir", "parts", "--resume_from_checkpoint", "last")
    whole, parts = (
        load_file(f"{name}/diffusion_pytorch_model.safetensors") for name in ("whole", "parts")
    )
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_scikit_learn_and_mnist_give_pairs(run: Run, data_dir: Path) -> None:
    for name, options in (
        ("digits", ("--data", "digits")),
        ("mnist", ("--data", "mnist", "--data_root", data_dir / "mnist")),
        ("preset", ("--config", PRESET, "--data_root", data_dir / "mnist")),
    ):
        run(
            "diffusion/train.py", "--model", "flow", *options, "--flow_times", "logit_normal",
            "--method", "negative_sft", "--target", 4, *SMALL, "--eval_samples", 0,
            "--output_dir", name,
        )  # fmt: skip
        assert json.loads(Path(name, "metrics.json").read_text())["steps"] == 3


WRONG = [
    (("--target", 10), r"--target must be in \[0, 9\], got 10"),
    (("--kappa", 0), "--kappa must be a finite number above 0"),
    (("--beta", -1), "--beta must be a finite number above 0"),
    (("--loss", "kl"), r"loss 'kl' \(did you mean .* sigmoid"),
    (("--data", "mnist"), "--data mnist needs --data_root DIR"),
    (("--data", "mnist", "--data_root", "nowhere"), "--data_root nowhere: no MNIST there"),
    (("--data", "digits", "--data_root", "x"), "--data_root has no effect without --data mnist"),
    (("--data", "nowhere"), "nowhere: no such folder"),
    (("--data", "wide"), "chosen/0.png: has 32 x 32 pixels, the model 28 x 28"),
    (("--data", "odd"), "2 images in chosen/, 1 in rejected/"),
    (("--data", "torn"), "chosen/0.png: not an image"),
    (("--data", "mnist", "--data_root", "torn"), "train-images-idx3-ubyte.gz: not a gzip file"),
    (("--model", "./nowhere"), "model ./nowhere: no such folder"),
    (("--model", "bare"), "model bare: no weights in this folder"),
    (("--model", "large", "--data", "digits"), "classifier classifier judges 1 x 28 x 28"),
    (("--classifier", "nowhere"), "classifier nowhere: no such folder"),
    (("--flow_times", "logit_normal"), "--flow_times has no effect: ddpm is no flow model"),
    (("--resume_from_checkpoint", "last"), "--resume_from_checkpoint last"),
    (("--rank", 2, "--lora_target_modules", "nowhere"), "--lora_target_modules"),
]


def wrong_folders() -> None:
    from fdpo.diffusion.images import write_image

    for folder, side, names, size in [
        ("good", "chosen", "01", 28), ("good", "rejected", "01", 28),
        ("wide", "chosen", "0", 32), ("wide", "rejected", "0", 32),
        ("odd", "chosen", "01", 28), ("odd", "rejected", "0", 28),
        ("torn", "chosen", "0", 28), ("torn", "rejected", "0", 28),
    ]:  # fmt: skip
        for name in names:
            write_image(f"{folder}/{side}/{name}.png", torch.zeros(1, size, size))
    for name in ("chosen/0.png", "train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"):
        Path("torn", name).write_bytes(b"torn")
    large = PixelUNet(32, block_out_channels=(8, 16), norm_num_groups=4)
    save_image_model(large, DDPM(), "large")
    Path("bare").mkdir()
    Path("bare/config.json").write_text(Path("ddpm/config.json").read_text())


@pytest.mark.parametrize(("options", "message"), WRONG, ids=lambda value: str(value)[:40])
def test_wrong_input_is_one_line_and_leaves_nothing(
    run: Run,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    options: tuple[object, ...],
    message: str,
) -> None:
    def offline(*args: object, **kwargs: object) -> None:
        raise RuntimeError("no network")

    monkeypatch.setattr("torchvision.datasets.MNIST", offline)
    wrong_folders()
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        run("diffusion/train.py", "--model", "ddpm", "--data", "good", *SMALL, *options)
    lines = [line for line in capsys.readouterr().err.splitlines() if ": error: " in line]
    assert stop.value.code == 2 and len(lines) == 1 and re.search(message, lines[0]), lines
    assert not (tmp_path / "runs").exists()


def test_options_of_text_and_images_do_not_mix(
    run: Run, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "preset.yaml").write_text("modality: image\n")
    for options, message in [
        (("--modality", "image", "--prompt_words", 3), "unknown option --prompt_words"),
        (("--config", "preset.yaml", "--prompt_words", 3), "unknown option --prompt_words"),
        ((*MAKE, "--test_size", 0.2), "test_size has no effect"),
        (("--modality", "image", "--groups", "none.jsonl", "--target", 3), "--target"),
        ((*MAKE, "--target", 11), "--target must be in [0, 9]"),
        ((*MAKE, "--completions", 1), "completions must be at least 2"),
    ]:
        with pytest.raises(SystemExit):
            run("dataset/main.py", *options)
        assert message in capsys.readouterr().err


def test_a_sweep_of_real_runs_checks_its_rate_and_fills_a_table(
    run: Run, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("dataset/main.py", *MAKE, "--output_dir", "pairs")
    monkeypatch.setitem(sys.modules, "train", program("diffusion/train.py"))  # by its plain name
    options = (
        "--model", "ddpm", "--data", "pairs", *SMALL, "--kappa", 20, "--loss", "jsd",
        "--learning_rates", 1e-3, "--check_steps", 2, "--output_dir", "out",
    )  # fmt: skip
    run("diffusion/sweep.py", *options)
    (choice,) = json.loads(Path("out/learning_rates.json").read_text()).values()
    assert math.isfinite(choice["losses"]["0.001"])
    (row,) = read_rows("out/table.parquet")
    assert row["learning_rate"] == 1e-3 and row["kappa"] == 20
    assert {"share", "path_kl", "commit"} <= row.keys() and row["steps"] == 3


LIGHT = """
import importlib, sys
for program in ("train", "evaluate", "sample", "pretrain"):
    main = importlib.import_module(f"fdpo.programs.diffusion.{program}").main
    for arguments in (["--help"], ["--sampling_steps", "0"], ["--max_train_steps", "many"]):
        sys.argv = [program, *arguments]
        try:
            main()
        except SystemExit as stop:
            assert stop.code == (0 if arguments == ["--help"] else 2), (program, arguments)
print({"accelerate", "diffusers", "peft", "torchvision", "matplotlib"} & set(sys.modules))
"""


def test_help_and_usage_errors_import_no_heavy_library() -> None:
    done = subprocess.run(
        [sys.executable, "-c", LIGHT], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.stdout.splitlines()[-1] == "set()", done.stderr


def test_what_the_evaluation_needs_is_checked_before_the_training(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("classifier/real_features.safetensors").unlink()
    options = ("diffusion/train.py", "--model", "ddpm", "--data", "digits", *SMALL)
    with pytest.raises(SystemExit) as stop:
        run(*options, "--output_dir", "out")
    assert stop.value.code == 2 and not Path("out").exists()
    assert "classifier classifier: no real_features.safetensors" in capsys.readouterr().err
    run(*options, "--output_dir", "out", "--eval_samples", 0)


def test_a_failed_comparison_keeps_the_model(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("no room for samples")

    monkeypatch.setattr("fdpo.tasks.mnist_report.path_kl", fail)
    run("diffusion/train.py", "--model", "ddpm", "--data", "digits", *SMALL, "--output_dir", "out")
    metrics = json.loads(Path("out/metrics.json").read_text())
    assert metrics["steps"] == 3
    assert metrics["missing"] == {"comparison of samples": "RuntimeError: no room for samples"}
    load_image_model("out")
    assert "continues without its comparison of samples" in capsys.readouterr().err
