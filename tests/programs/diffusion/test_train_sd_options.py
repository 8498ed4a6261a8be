"""The options of train_sd.py: wrong input, presets, help."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from fdpo.runs.rows import write_rows
from tests.programs.diffusion.sd import TRAIN, Pipelines, Run

ROOT = Path(__file__).parents[3]
CONFIGS = ROOT / "fdpo/programs/configs/diffusion"
Program = Callable[[str], ModuleType]
HEAVY = [
    "fdpo.diffusion.text_to_image.pipeline",
    "fdpo.diffusion.text_to_image.scorers",
    "datasets",
]

WRONG: list[tuple[dict[str, Any], str]] = [
    ({"pretrained_model_name_or_path": None}, "--pretrained_model_name_or_path is needed"),
    ({"pretrained_model_name_or_path": "pairs"}, "model pairs: this folder is no pipeline"),
    ({"dataset": None}, "--dataset is needed"),
    ({"dataset": "./nowhere"}, "./nowhere: neither a folder, nor a Parquet or JSONL file"),
    ({"dataset": "torn"}, "torn/train.jsonl, row 1, torn.png: not an image"),
    ({"dataset": "pick.parquet"}, "pick.parquet, row 1: label_0 is 2.0; allowed are 1"),
    ({"resolution": 18}, "--resolution 18: must be a multiple of 4"),
    ({"proportion_empty_prompts": 1}, "--proportion_empty_prompts must be in [0, 1)"),
    ({"random_crop": True, "cache_latents": True}, "--cache_latents: random crops"),
    ({"scorer": "beauty"}, "scorer beauty: neither pickscore"),
    ({"validation_scorers": ["beauty"]}, "leaves nothing to generate and to score"),
    ({"validation_steps": 5}, "--validation_steps has no effect with --num_validation_images 0"),
    ({"loss": "kl"}, "unknown loss 'kl'"),
    ({"kappa": -1}, "--kappa must be a finite number above 0"),
    ({"rank": 2, "lora_target_modules": ["nowhere"]}, "--lora_target_modules"),
    ({"optimizer": "adafactor", "adam_beta1": 0.5}, "--adam_beta1 has no effect"),
    ({"gradient_accumulation_steps": 0, "train_batch_size": 3}, "does not divide 2,048 pairs"),
    ({"hub_model_id": "me/lora"}, "--hub_model_id has no effect without --push_to_hub"),
    ({"resume_from_checkpoint": "last"}, "--resume_from_checkpoint last: out holds no run"),
    ({"skip_unreadable": True, "check_images": False}, "--skip_unreadable has no effect"),
    ({"skip_unreadable": True, "check_pictures": False}, "--skip_unreadable has no effect"),
    ({"rule": "all", "dataset": "pick.parquet"}, "rule would only rank scored groups"),
]


@pytest.mark.parametrize(("options", "message"), WRONG, ids=lambda value: str(value)[:40])
def test_wrong_input_is_one_line_and_leaves_nothing(
    run_sd: Run, pipelines: Pipelines, options: dict[str, Any], message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    Path("torn").mkdir()
    Path("torn/torn.png").write_bytes(b"no")
    row = {"caption": "a", "chosen": "torn.png", "rejected": "../pairs/chosen-0.png"}
    Path("torn/train.jsonl").write_text(json.dumps(row))
    write_rows("pick.parquet", [{"jpg_0": b"", "jpg_1": b"", "label_0": 2.0, "caption": "a"}])
    with pytest.raises(SystemExit) as stop:
        given = {"pretrained_model_name_or_path": pipelines("sd-e"), **options}
        run_sd("diffusion/train_sd.py", TRAIN, **given)
    lines = [line for line in capsys.readouterr().err.splitlines() if ": error: " in line]
    assert stop.value.code == 2 and len(lines) == 1 and message in lines[0], lines
    assert not Path("out").exists() and not Path("runs").exists()


def test_presets_are_the_published_recipes(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = program("diffusion/train_sd.py")

    def parsed(name: str, *argv: str) -> tuple[Any, ...]:
        return module.arguments.parse(
            module.TYPES, ["--config", str(CONFIGS / name), *argv], program="train_sd.py",
            aliases=module.ALIASES,
        )  # fmt: skip

    for processes, name in ((1, "sd15.yaml"), (16, "sdxl.yaml")):
        monkeypatch.setenv("WORLD_SIZE", str(processes))
        model, data, _, training = parsed(name)
        assert training.gradient_accumulation_steps == 2048 // processes
        assert training.pairs_per_update == 2048 and training.kappa * training.beta == 2500
        assert training.peak_learning_rate == pytest.approx(2.048e-5)
        assert training.max_train_steps == 2000 and data.proportion_empty_prompts == 0.2
        xl = name == "sdxl.yaml"
        assert data.resolution == (1024 if xl else 512)
        assert (training.optimizer, training.gradient_checkpointing, training.lr_warmup_steps) == (
            ("adafactor", True, 200) if xl else ("adamw", False, 500)
        )
    monkeypatch.delenv("WORLD_SIZE")
    _, data, _, training = parsed("lora.yaml", "--dataset", "pairs")
    assert training.rank == 8 and training.mixed_precision == "bf16" and data.cache_latents
    assert training.peak_learning_rate == 1e-5
    files = list((ROOT / "diffusion/configs/accelerate").glob("*.yaml"))
    assert len(files) == 4
    for file in files:
        config = yaml.safe_load(file.read_text())
        assert config["num_processes"] >= 1 and isinstance(config["distributed_type"], str)
        assert ("ot tested here" in file.read_text()) == (file.stem in ("fsdp", "deepspeed"))


def test_old_names_of_options_work_on_the_command_line_and_in_yaml(
    program: Program, tmp_path: Path
) -> None:
    module = program("diffusion/train_sd.py")
    preset = tmp_path / "old.yaml"
    preset.write_text("check_pictures: false\ndataset: pairs\n")
    model = ["--pretrained_model_name_or_path", "m"]
    for argv in (["--config", str(preset)], ["--dataset=a", "--check_pictures", "false"]):
        _, data, _, _ = module.arguments.parse(
            module.TYPES, [*model, *argv], program="train_sd.py", aliases=module.ALIASES
        )
        assert data.check_images is False


# Names in diffusers' training scripts (examples/text_to_image, dreambooth, diffusion_dpo).
DIFFUSERS = """
pretrained_model_name_or_path pretrained_vae_model_name_or_path revision variant
dataset_split_name max_train_samples resolution random_flip random_crop proportion_empty_prompts
validation_prompts num_inference_steps guidance_scale validation_steps output_dir max_train_steps
train_batch_size gradient_accumulation_steps optimizer learning_rate scale_lr lr_scheduler
lr_warmup_steps adam_beta1 adam_beta2 adam_weight_decay adam_epsilon max_grad_norm use_ema rank
lora_alpha mixed_precision gradient_checkpointing dataloader_num_workers checkpointing_steps
checkpoints_total_limit resume_from_checkpoint report_to seed push_to_hub hub_model_id
"""


def test_help_is_short_and_says_which_options_are_fdpos(
    program: Program, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    module = program("diffusion/train_sd.py")
    monkeypatch.setattr(sys, "argv", ["train_sd.py", "--help"])
    with pytest.raises(SystemExit):
        module.main()
    text = capsys.readouterr().out
    assert len(text.splitlines()) < 110
    for title in ("Model:", "Pairs:", "Images generated during training:", "Loss and training:"):
        assert f"\n{title}" in text
    description = " ".join(text.split("\nModel:")[0].split())
    ours = re.search(r"fdpo's own options are (.*); the others", description)
    assert ours and "have the names and meanings of diffusers" in description
    options = re.findall(r"^  --(\w+)", text, re.MULTILINE)
    assert {"dataset", "check_images", "loss", "reference_cache"} <= set(options)
    assert set(options) - set(ours[1].split(", ")) == set(DIFFUSERS.split())
    assert "check_pictures" not in text


@pytest.mark.parametrize("name", ["train_sd", "compare"])
@pytest.mark.parametrize("argv", [["--help"], ["--seeed", "1"]], ids=lambda argv: argv[0])
def test_help_and_usage_errors_load_no_pipeline(name: str, argv: list[str]) -> None:
    code = f"""
import sys
from fdpo.programs.diffusion.{name} import main
try:
    main()
except SystemExit:
    loaded = sorted(module for module in {HEAVY} if module in sys.modules)
    print("loaded:", *loaded)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, *argv], capture_output=True, text=True, cwd=ROOT
    )
    assert done.stdout.splitlines()[-1] == "loaded:", done.stdout + done.stderr
