"""train_sd.py as its users meet it, on tiny pipelines: what it trains, saves and uploads."""

from __future__ import annotations

import math
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from diffusers import DiffusionPipeline
from PIL import Image
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from fdpo.diffusion.text_to_image.pipeline import LORA
from fdpo.diffusion.text_to_image.save import COMFYUI_LORA
from fdpo.runs.rows import write_rows
from fdpo.runs.seeds import derived_seed
from tests.programs.diffusion.sd import (
    TRAIN,
    Pipelines,
    Run,
    read_log,
    read_metrics,
    same_image,
    train,
)

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("sd-e", {"rank": 2, "lora_alpha": 6, "loss": "jsd", "cache_latents": True}),
        ("sd-v", {"rank": 0, "method": "sft"}),
        ("xl-e", {"rank": 0, "loss": "alpha", "alpha": 0.5, "optimizer": "adafactor"}),
        ("xl-v", {"rank": 2, "loss": "fkl", "dpo_weight": 0.5, "sft_weight": 1.0}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_from_pairs_to_what_diffusers_loads(
    run_sd: Run, pipelines: Pipelines, kind: str, options: dict[str, Any]
) -> None:
    """A fresh pipeline with the run's files generates the policy's last validation images."""
    validation = {
        "num_validation_images": 2, "validation_prompts": ["a cat"], "guidance_scale": 2.0,
        "report_to": "tensorboard",
    }  # fmt: skip
    rate = 0.1 if options["rank"] else 1e-3
    train(run_sd, pipelines(kind), **options, **validation, validation_steps=1, learning_rate=rate)
    metrics = read_metrics()
    assert metrics["steps"] == 2 and metrics["pairs_per_second"] > 0 and metrics["change"] > 0
    assert all(math.isfinite(value) for value in metrics.values())
    assert ("log_ratio_chosen_q50" in metrics) == (options.get("method") != "sft")
    rows = [row for row in read_log("out") if "validation/change" in row]
    assert [row["step"] for row in rows] == [1, 2]
    for name in ("base/000.png", "base/001.png", "step-1.png", "step-2.png"):
        assert Image.open(Path("out/validation", name)).size[0] >= 16
    events = EventAccumulator("out/fdpo").Reload()
    assert [event.step for event in events.Images("validation")][:2] == [1, 2]
    pipeline = DiffusionPipeline.from_pretrained(pipelines(kind) if options["rank"] else "out")
    pipeline.set_progress_bar_config(disable=True)
    if options["rank"]:
        assert not Path("out/model_index.json").exists()
        pipeline.load_lora_weights("out", weight_name=LORA)
    for i in (0, 1):
        image = pipeline(
            "a cat", num_inference_steps=2, guidance_scale=2.0,
            generator=torch.Generator().manual_seed(derived_seed(0, i)),
        ).images[0]  # fmt: skip
        assert same_image(image, Path(f"out/validation/step-2/{i:03}.png"))
        assert not same_image(image, Path(f"out/validation/base/{i:03}.png"))
    card = Path("out/README.md").read_text()
    front = yaml.safe_load(card.split("---")[1])
    assert front["base_model"] == pipelines(kind) and ("lora" in front["tags"]) == bool(
        options["rank"]
    )
    assert "validation/step-2.png" in card and "2,0" not in card
    assert not list(Path("out").glob(".saving*"))


def test_lora_files_carry_their_scale_and_known_names(run_sd: Run, pipelines: Pipelines) -> None:
    """For readers that take alpha for the rank; both files are the same layers."""
    train(run_sd, pipelines("xl-e"), rank=2, lora_alpha=6, max_train_steps=1, learning_rate=0.1)
    weights, comfy = (load_file(f"out/{name}") for name in (LORA, COMFYUI_LORA))
    layer = r"unet\..*\.attn[12]\.to_(q|k|v|out\.0)\.lora\.(down|up)\.weight"
    assert all(re.fullmatch(layer, name) for name in weights)
    layer = r"lora_unet_\w*_attn[12]_to_(q|k|v|out_0)\.(lora_(down|up)\.weight|alpha)"
    assert all(re.fullmatch(layer, name) for name in comfy) and len(comfy) == 1.5 * len(weights)
    assert all(value == 2 for name, value in comfy.items() if name.endswith("alpha"))
    up = next(value for name, value in weights.items() if ".up." in name)
    assert up.shape[1] == 2 and up.abs().max() == pytest.approx(3 * 0.1, rel=0.01)  # Adam's step
    loaded = []
    for name in (None, COMFYUI_LORA):
        pipeline = DiffusionPipeline.from_pretrained(pipelines("xl-e"))
        pipeline.load_lora_weights("out", weight_name=name)
        pipeline.fuse_lora()
        pipeline.unload_lora_weights()
        loaded.append(pipeline.unet.state_dict())
    assert all(torch.equal(loaded[0][name], value) for name, value in loaded[1].items())
    base = DiffusionPipeline.from_pretrained(pipelines("xl-e")).unet.state_dict()
    moved = {name for name, value in base.items() if not torch.equal(value, loaded[0][name])}
    assert len(moved) == len(weights) / 2


def test_an_interrupted_run_resumes_to_the_same_weights(run_sd: Run, pipelines: Pipelines) -> None:
    options = {
        "rank": 2, "max_train_steps": 4, "checkpointing_steps": 2, "checkpoints_total_limit": 2,
    }  # fmt: skip
    train(run_sd, pipelines("xl-e"), **options, output_dir="whole")
    train(run_sd, pipelines("xl-e"), **options, output_dir="parted")
    for name in ("metrics.json", "checkpoint-4/trainer_state.json"):
        Path("parted", name).unlink()
    train(
        run_sd, pipelines("xl-e"), **options, output_dir="parted", resume_from_checkpoint="last",
        cache_latents=None,
    )  # fmt: skip
    whole, parted = (load_file(f"{name}/{LORA}") for name in ("whole", "parted"))
    assert all(torch.equal(whole[name], parted[name]) for name in whole)
    assert [row["step"] for row in read_log("parted")] == [1, 2, 3, 4]


def test_accumulated_batches_and_cached_latents_change_nothing(
    run_sd: Run, pipelines: Pipelines
) -> None:
    model = pipelines("sd-e")
    options = {"adam_epsilon": 1e-3, "max_train_steps": 2}
    train(run_sd, model, **options, train_batch_size=4, output_dir="large")
    train(run_sd, model, **options, gradient_accumulation_steps=2, output_dir="parts")
    train(run_sd, model, **options, train_batch_size=4, cache_latents=True, output_dir="cached")
    for name in ("parts", "cached"):
        for row, other in zip(read_log("large"), read_log(name), strict=True):
            for key in row:
                assert other[key] == pytest.approx(row[key], rel=1e-2, abs=2e-3), (name, key)


@pytest.mark.slow
def test_two_processes_give_the_curve_of_one(run_sd: Run, pipelines: Pipelines) -> None:
    model = pipelines("sd-e")
    options = {"rank": 2, "max_train_steps": 3, "cache_latents": True, "learning_rate": 1e-2}
    train(run_sd, model, **options, train_batch_size=4, output_dir="one")
    given = {**TRAIN, **options, "output_dir": "two", "pretrained_model_name_or_path": model}
    given |= {"cache_dir": "another", "num_validation_images": 1}
    argv = [f"--{name}={value}" for name, value in given.items()]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    launch = "-m torch.distributed.run --standalone --nproc_per_node 2".split()
    command = [sys.executable, *launch, str(ROOT / "diffusion/train_sd.py"), *argv]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    for one, two in zip(read_log("one"), read_log("two"), strict=True):
        for name in one.keys() - {"grad_norm"}:
            assert two[name] == pytest.approx(one[name], rel=1e-2, abs=2e-3), name
    first, second = (load_file(f"{name}/{LORA}") for name in ("one", "two"))
    for name, value in first.items():
        torch.testing.assert_close(second[name], value, rtol=0.05, atol=2e-3)


def test_a_scorer_relabels_pick_a_pic(
    run_sd: Run, pipelines: Pipelines, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    (tmp_path / "sizes.py").write_text(
        "import os\ndef size(captions, paths): return [os.path.getsize(path) for path in paths]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    data = {
        f"jpg_{i}": Path(f"pairs/{side}-0.png").read_bytes()
        for i, side in enumerate(("chosen", "rejected"))
    }
    rows = [{**data, "label_0": 0.5, "caption": f"cat {i}"} for i in range(4)]
    write_rows("pick.parquet", [*rows, {**rows[0], "jpg_1": b"torn"}])
    train(
        run_sd, pipelines("sd-e"), rank=2, dataset="pick.parquet", scorer="sizes:size",
        skip_unreadable=True, max_train_steps=1, validation_scorers=["sizes:size"],
        num_validation_images=1, loss="sigmoid",
    )  # fmt: skip
    out = capsys.readouterr().out
    assert "4 pairs made of 5 candidates; dropped: 1 unreadable" in out
    assert read_metrics()["sizes:size_win_rate"] in (0, 0.5, 1)


def test_upload(run_sd: Run, pipelines: Pipelines, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []

    class Hub:
        def create_repo(self, name: str, **options: Any) -> None:
            calls.append(name)

        def upload_folder(self, **options: Any) -> str:
            calls.append(options)
            return "the hub"

    monkeypatch.setattr("huggingface_hub.HfApi", Hub)
    train(
        run_sd,
        pipelines("sd-e"),
        rank=2,
        max_train_steps=1,
        push_to_hub=True,
        hub_model_id="me/lora",
    )
    name, options = calls
    assert name == options["repo_id"] == "me/lora"
    assert {LORA, "README.md"} <= set(options["allow_patterns"])
    assert not any("checkpoint" in pattern for pattern in options["allow_patterns"])


SCORER = """
calls = []
def score(prompts, paths):
    calls.append(len(paths))
    if len(calls) == {failing}:
        raise {error}("cannot score")
    return [0.5] * len(paths)
"""


def test_a_scorer_that_fails_does_so_before_the_training_or_leaves_the_model(
    run_sd: Run, pipelines: Pipelines, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.syspath_prepend(tmp_path)
    for name, failing, error in (("first", 1, "ValueError"), ("later", 2, "RuntimeError")):
        (tmp_path / f"{name}_scorer.py").write_text(SCORER.format(failing=failing, error=error))
    options = {"num_validation_images": 2, "rank": 2}
    with pytest.raises(SystemExit) as stop:
        train(run_sd, pipelines("sd-e"), validation_scorers=["first_scorer:score"], **options)
    assert stop.value.code == 2 and not Path("out").exists()
    assert capsys.readouterr().err.endswith("train_sd.py: error: cannot score\n")
    train(run_sd, pipelines("sd-e"), validation_scorers=["later_scorer:score"], **options)
    metrics: dict[str, Any] = read_metrics()
    assert metrics["steps"] == 2
    assert metrics["missing"] == {"validation images": "RuntimeError: cannot score"}
    assert Path("out/pytorch_lora_weights.safetensors").is_file()
    assert Path("out/README.md").is_file()
