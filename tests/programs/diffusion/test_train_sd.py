"""The programs of Stable Diffusion as their users meet them, on tiny pipelines."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from accelerate.state import AcceleratorState, GradientState
from diffusers import DDIMScheduler, DiffusionPipeline
from PIL import Image
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from fdpo.diffusion.text_to_image.pipeline import LORA, StableDiffusion, load
from fdpo.diffusion.text_to_image.save import COMFYUI_LORA
from fdpo.diffusion.text_to_image.transforms import Cut, PairTransform, decode
from fdpo.preferences.schema import read_groups, read_pairs
from fdpo.runs.rows import write_rows

ROOT = Path(__file__).parents[3]
CONFIGS = ROOT / "fdpo/programs/configs/diffusion"
Pipelines = Callable[..., str]
Program = Callable[[str], ModuleType]
Run = Callable[..., None]

TRAIN = {
    "dataset": "pairs", "use_cpu": True, "max_train_steps": 2, "train_batch_size": 2,
    "gradient_accumulation_steps": 1, "learning_rate": 1e-3, "scale_lr": False,
    "lr_warmup_steps": 0, "num_inference_steps": 2, "num_validation_images": 0, "kappa": 100,
    "logging_steps": 1, "output_dir": "out",
}  # fmt: skip


@pytest.fixture
def run(
    program: Program, pair_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Run:
    """Runs a program in a folder with ``pairs``; options as a mapping and keywords."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "datasets")
    monkeypatch.setenv("ACCELERATE_USE_CPU", "false")  # what the programs set is undone

    def command(path: str, options: Mapping[str, Any], **more: Any) -> None:
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()
        argv: list[str] = []
        for name, value in {**options, **more}.items():
            if value is not None:
                argv += [f"--{name}", *map(str, value if isinstance(value, list) else [value])]
        monkeypatch.setattr(sys, "argv", [Path(path).name, *argv])
        program(path).main()

    return command


def train(run: Run, model: str, **options: Any) -> None:
    run("diffusion/train_sd.py", TRAIN, pretrained_model_name_or_path=model, **options)


def metrics(folder: str = "out") -> dict[str, float]:
    return json.loads(Path(folder, "metrics.json").read_text())


def log(folder: str) -> list[dict[str, float]]:
    return [json.loads(line) for line in Path(folder, "log.jsonl").open()]


def same_picture(one: Image.Image, path: Path) -> bool:
    gap = np.abs(np.asarray(one, dtype=int) - np.asarray(Image.open(path), dtype=int))
    return int(gap.max()) <= 1


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
    run: Run, pipelines: Pipelines, kind: str, options: dict[str, Any]
) -> None:
    """What a fresh pipeline draws with the run's files is what the policy drew at its end."""
    drawn = {
        "num_validation_images": 2, "validation_prompts": ["a cat"], "guidance_scale": 2.0,
        "report_to": "tensorboard",
    }  # fmt: skip
    rate = 0.1 if options["rank"] else 1e-3
    train(run, pipelines(kind), **options, **drawn, validation_steps=1, learning_rate=rate)
    found = metrics()
    assert found["steps"] == 2 and found["pairs_per_second"] > 0 and found["change"] > 0
    assert all(math.isfinite(value) for value in found.values())
    assert ("log_ratio_chosen_q50" in found) == (options.get("method") != "sft")
    rows = [row for row in log("out") if "validation/change" in row]
    assert [row["step"] for row in rows] == [1, 2]
    for name in ("base/000.png", "base/001.png", "step-1.png", "step-2.png"):
        assert Image.open(Path("out/validation", name)).size[0] >= 16
    events = EventAccumulator("out/fdpo").Reload()
    assert [image.step for image in events.Images("validation")][:2] == [1, 2]
    pipeline = DiffusionPipeline.from_pretrained(pipelines(kind) if options["rank"] else "out")
    pipeline.set_progress_bar_config(disable=True)
    if options["rank"]:
        assert not Path("out/model_index.json").exists()
        pipeline.load_lora_weights("out", weight_name=LORA)
    from fdpo.runs.seeds import derived_seed

    for i in (0, 1):
        picture = pipeline(
            "a cat", num_inference_steps=2, guidance_scale=2.0,
            generator=torch.Generator().manual_seed(derived_seed(0, i)),
        ).images[0]  # fmt: skip
        assert same_picture(picture, Path(f"out/validation/step-2/{i:03}.png"))
        assert not same_picture(picture, Path(f"out/validation/base/{i:03}.png"))
    card = Path("out/README.md").read_text()
    front = yaml.safe_load(card.split("---")[1])
    assert front["base_model"] == pipelines(kind) and ("lora" in front["tags"]) == bool(
        options["rank"]
    )
    assert "validation/step-2.png" in card and "2,0" not in card
    assert not list(Path("out").glob(".saving*"))


def test_lora_files_carry_their_scale_and_known_names(run: Run, pipelines: Pipelines) -> None:
    """For readers that take alpha for the rank; both files are the same layers."""
    train(run, pipelines("xl-e"), rank=2, lora_alpha=6, max_train_steps=1, learning_rate=0.1)
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


def test_an_interrupted_run_goes_on_to_the_same_weights(run: Run, pipelines: Pipelines) -> None:
    options = {
        "rank": 2, "max_train_steps": 4, "checkpointing_steps": 2, "checkpoints_total_limit": 2,
    }  # fmt: skip
    train(run, pipelines("xl-e"), **options, output_dir="whole")
    train(run, pipelines("xl-e"), **options, output_dir="parted")
    for name in ("metrics.json", "checkpoint-4/trainer_state.json"):
        Path("parted", name).unlink()
    train(
        run, pipelines("xl-e"), **options, output_dir="parted", resume_from_checkpoint="last",
        cache_latents=None,
    )  # fmt: skip
    whole, parted = (load_file(f"{name}/{LORA}") for name in ("whole", "parted"))
    assert all(torch.equal(whole[name], parted[name]) for name in whole)
    assert [row["step"] for row in log("parted")] == [1, 2, 3, 4]


def test_accumulated_batches_and_kept_latents_change_nothing(
    run: Run, pipelines: Pipelines
) -> None:
    model = pipelines("sd-e")
    options = {"adam_epsilon": 1e-3, "max_train_steps": 2}
    train(run, model, **options, train_batch_size=4, output_dir="large")
    train(run, model, **options, gradient_accumulation_steps=2, output_dir="parts")
    train(run, model, **options, train_batch_size=4, cache_latents=True, output_dir="kept")
    for name in ("parts", "kept"):
        for one, other in zip(log("large"), log(name), strict=True):
            for key in one:
                assert other[key] == pytest.approx(one[key], rel=1e-2, abs=2e-3), (name, key)


@pytest.mark.slow
def test_two_processes_give_the_curve_of_one(run: Run, pipelines: Pipelines) -> None:
    model = pipelines("sd-e")
    options = {"rank": 2, "max_train_steps": 3, "cache_latents": True, "learning_rate": 1e-2}
    train(run, model, **options, train_batch_size=4, output_dir="one")
    given = {**TRAIN, **options, "output_dir": "two", "pretrained_model_name_or_path": model}
    given |= {"cache_dir": "another", "num_validation_images": 1}
    argv = [f"--{name}={value}" for name, value in given.items()]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    launch = "-m torch.distributed.run --standalone --nproc_per_node 2".split()
    command = [sys.executable, *launch, str(ROOT / "diffusion/train_sd.py"), *argv]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    for one, two in zip(log("one"), log("two"), strict=True):
        for name in one.keys() - {"grad_norm"}:
            assert two[name] == pytest.approx(one[name], rel=1e-2, abs=2e-3), name
    first, second = (load_file(f"{name}/{LORA}") for name in ("one", "two"))
    for name, value in first.items():
        torch.testing.assert_close(second[name], value, rtol=0.05, atol=2e-3)


@pytest.mark.slow
def test_what_won_is_drawn_more(run: Run, pipelines: Pipelines) -> None:
    """The f-DPO loss alone moves what a model of red and blue pictures draws towards red."""
    rows = [json.loads(line) for line in Path("pairs/train.jsonl").read_text().splitlines()]
    swapped = [{**r, "chosen": r["rejected"], "rejected": r["chosen"]} for r in rows]
    Path("pairs/both.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows + swapped))
    options = {"train_batch_size": 8, "logging_steps": 50, "cache_latents": True}
    train(
        run, pipelines("sd-e"), **options, dataset_split_name="both", method="sft",
        max_train_steps=400, learning_rate=2e-3, output_dir="both",
    )  # fmt: skip
    train(
        run, "both", **options, loss="jsd", max_train_steps=200, learning_rate=1e-4,
        output_dir="policy",
    )  # fmt: skip
    both = load("both")
    red, blue = (latent_mean(both, side) for side in ("chosen", "rejected"))
    places = []
    for model in (both, load("policy")):
        shift = (latents_of(model) - blue) * (red - blue)
        places.append(shift.flatten(1).sum(1) / (red - blue).square().sum())
        error = places[-1].std().item() / math.sqrt(len(shift))
        print(f"{places[-1].mean().item():.2f} ± {error:.2f}; blue is 0, red is 1")
    gaps = places[1] - places[0]  # drawn from the same noise
    print(f"moved by {gaps.mean().item():.2f} ± {gaps.std().item() / math.sqrt(len(gaps)):.2f}")
    assert gaps.mean() > 4 * gaps.std() / math.sqrt(len(gaps))


def latent_mean(model: StableDiffusion, side: str) -> torch.Tensor:
    """The mean latents of one colour's pictures."""
    pixels = [
        PairTransform(16).apply(decode(path.read_bytes(), "a"), Cut())[0]
        for path in Path("pairs").glob(f"{side}-*.png")
    ]
    return model.moments(torch.stack(pixels))[:, 0].mean(0)


@torch.no_grad()
def latents_of(model: StableDiffusion) -> torch.Tensor:
    """Latents that a model draws of one caption, the same noise for every model."""
    noise = torch.randn(64, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    text = model.text(["picture 1"])["encoder_hidden_states"].repeat(64, 1, 1)
    unet = model.unet.eval()
    latents: torch.Tensor = noise
    sampler = DDIMScheduler.from_config(model.pipeline.scheduler.config, clip_sample=False)
    sampler.set_timesteps(20)
    for t in sampler.timesteps:
        latents = sampler.step(unet(latents, t, text).sample, t, latents).prev_sample
    return latents


def test_prompts_become_pairs_a_lora_and_a_comparison(
    run: Run, pipelines: Pipelines, tmp_path: Path, tiny_clip: Callable[[Path, str], str],
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """dataset/main.py, train_sd.py and compare.py hand on to each other."""
    model, scorer = pipelines("sd-e"), f"clip={tiny_clip(tmp_path / 'clip', 'clip')}"
    Path("prompts.txt").write_text("a cat\na dog\n\na cat\na fox\na red fox\n")
    make = {
        "modality": "image", "model": model, "prompts": "prompts.txt", "scorer": scorer,
        "completions": 3, "sampling_steps": 2, "rule": "best_worst", "test_size": 0.25,
        "output_dir": "drawn",
    }  # fmt: skip
    run("dataset/main.py", make)
    groups = read_groups("drawn/groups.jsonl")
    assert [group.prompt for group in groups] == ["a cat", "a dog", "a fox", "a red fox"]
    pairs = read_pairs("drawn/train.jsonl") + read_pairs("drawn/test.jsonl")
    assert len(pairs) == 4 and len(read_pairs("drawn/test.jsonl")) == 1
    best = {group.prompt: group.completions[np.argmax(group.scores)] for group in groups}
    assert all(pair.chosen == best[str(pair.prompt)] for pair in pairs)
    pictures = {path.name: path.read_bytes() for path in Path("drawn/pictures").iterdir()}
    assert len(pictures) == 12 == len(set(pictures.values()))
    assert "text-to-image" in Path("drawn/README.md").read_text()
    Path("drawn/README.md").unlink()  # as if it had been interrupted
    Path("drawn/pictures/000002-1.png").unlink()
    run("dataset/main.py", make)
    assert pictures == {p.name: p.read_bytes() for p in Path("drawn/pictures").iterdir()}

    train(run, model, rank=2, dataset="drawn", learning_rate=1e-2)
    compare = {
        "model": "out", "prompts": "drawn/groups.jsonl", "scorers": [scorer], "samples": 2,
        "num_inference_steps": 2, "output_dir": "compared",
    }  # fmt: skip
    capsys.readouterr()
    run("diffusion/compare.py", compare)
    found = metrics("compared")
    assert 0 <= found[f"{scorer}_win_rate_low"] <= found[f"{scorer}_win_rate"] <= 1
    assert found[f"{scorer}_mean"] != found[f"{scorer}_base_mean"]
    page = Path("compared/index.html").read_text()
    assert page.count("<img") == 16 and "a red fox" in page
    assert Image.open("compared/sheet.png").size[1] > 8 * 256
    assert len(list(Path("compared/pictures").glob("*-policy.png"))) == 8
    assert scorer[:20] in capsys.readouterr().out
    run("diffusion/compare.py", compare, reference="out", output_dir="itself", num_prompts=2)
    assert metrics("itself")[f"{scorer}_win_rate"] == 0.5


def test_a_scorer_labels_pick_a_pic_anew(
    run: Run, pipelines: Pipelines, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
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
        run, pipelines("sd-e"), rank=2, dataset="pick.parquet", scorer="sizes:size",
        skip_unreadable=True, max_train_steps=1, validation_scorers=["sizes:size"],
        num_validation_images=1, loss="sigmoid",
    )  # fmt: skip
    out = capsys.readouterr().out
    assert "4 pairs made of 5 candidates; dropped: 1 unreadable" in out
    assert metrics()["sizes:size_win_rate"] in (0, 0.5, 1)


def test_the_divergence_that_does_not_count_is_warned_of() -> None:
    from fdpo import get_divergence
    from fdpo.estimators.linearity import bend, linearity_warning

    js = get_divergence("js")
    assert bend(js, [1e-4, 0.0]) == pytest.approx(1e-4 / 4, rel=1e-3)  # g = ℓ/2 − ℓ²/8 + …
    small, large = ({"q05": -size, "q95": size} for size in (0.01, 1.0))
    warning = linearity_warning(js, small)
    assert warning and "log-ratios reach 0.01 nats" in warning and "--kappa" in warning
    assert linearity_warning(js, large) is None and linearity_warning(js, {}) is None
    assert linearity_warning(get_divergence("reverse_kl"), small) is None


def test_upload(run: Run, pipelines: Pipelines, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []

    class Hub:
        def create_repo(self, name: str, **options: Any) -> None:
            calls.append(name)

        def upload_folder(self, **options: Any) -> str:
            calls.append(options)
            return "the hub"

    monkeypatch.setattr("fdpo.diffusion.text_to_image.save.HfApi", Hub)
    train(
        run, pipelines("sd-e"), rank=2, max_train_steps=1, push_to_hub=True, hub_model_id="me/lora"
    )
    name, options = calls
    assert name == options["repo_id"] == "me/lora"
    assert {LORA, "README.md"} <= set(options["allow_patterns"])
    assert not any("checkpoint" in pattern for pattern in options["allow_patterns"])


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"pretrained_model_name_or_path": None}, "--pretrained_model_name_or_path is needed"),
    ({"pretrained_model_name_or_path": "pairs"}, "model pairs: this folder is no pipeline"),
    ({"dataset": None}, "--dataset is needed"),
    ({"dataset": "./nowhere"}, "./nowhere: neither a folder, nor a Parquet or JSONL file"),
    ({"dataset": "torn"}, "torn/train.jsonl, row 1, torn.png: is no picture"),
    ({"dataset": "pick.parquet"}, "pick.parquet, row 1: label_0 is 2.0; allowed are 1"),
    ({"resolution": 18}, "--resolution 18: must be a multiple of 4"),
    ({"proportion_empty_prompts": 1}, "--proportion_empty_prompts must lie in [0, 1)"),
    ({"random_crop": True, "cache_latents": True}, "--cache_latents: the crops of --random_crop"),
    ({"scorer": "beauty"}, "scorer beauty: neither pickscore"),
    ({"validation_scorers": ["beauty"]}, "leaves nothing to draw and to score"),
    ({"validation_steps": 5}, "--validation_steps has no effect with --num_validation_images 0"),
    ({"loss": "kl"}, "no loss 'kl'"),
    ({"kappa": -1}, "--kappa must be finite and above 0"),
    ({"rank": 2, "lora_target_modules": ["nowhere"]}, "--lora_target_modules"),
    ({"optimizer": "adafactor", "adam_beta1": 0.5}, "--adam_beta1 has no effect"),
    ({"gradient_accumulation_steps": 0, "train_batch_size": 3}, "does not divide 2,048 pairs"),
    ({"hub_model_id": "me/lora"}, "--hub_model_id has no effect without --push_to_hub"),
    ({"resume_from_checkpoint": "last"}, "--resume_from_checkpoint last: out holds no run"),
    ({"skip_unreadable": True, "check_pictures": False}, "--skip_unreadable has no effect"),
    ({"rule": "all", "dataset": "pick.parquet"}, "rule would only rank scored groups"),
]


@pytest.mark.parametrize(("options", "message"), WRONG, ids=lambda value: str(value)[:40])
def test_wrong_input_is_one_line_and_leaves_nothing(
    run: Run, pipelines: Pipelines, options: dict[str, Any], message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    Path("torn").mkdir()
    Path("torn/torn.png").write_bytes(b"no")
    row = {"caption": "a", "chosen": "torn.png", "rejected": "../pairs/chosen-0.png"}
    Path("torn/train.jsonl").write_text(json.dumps(row))
    write_rows("pick.parquet", [{"jpg_0": b"", "jpg_1": b"", "label_0": 2.0, "caption": "a"}])
    with pytest.raises(SystemExit) as stop:
        given = {"pretrained_model_name_or_path": pipelines("sd-e"), **options}
        run("diffusion/train_sd.py", TRAIN, **given)
    lines = [line for line in capsys.readouterr().err.splitlines() if ": error: " in line]
    assert stop.value.code == 2 and len(lines) == 1 and message in lines[0], lines
    assert not Path("out").exists() and not Path("runs").exists()


def test_wrong_comparisons_and_prompts(
    run: Run, pipelines: Pipelines, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("a.txt").write_text("a cat\n")
    Path("b.jsonl").write_text('{"text": "a cat"}\n')
    compare = {"model": pipelines("sd-e"), "prompts": "a.txt", "reference": pipelines("sd-v")}
    make = {"modality": "image", "model": pipelines("sd-e"), "prompts": "a.txt"}
    for path, options, message in [
        ("diffusion/compare.py", {**compare, "prompts": "b.jsonl"}, "b.jsonl, row 1: no column"),
        ("diffusion/compare.py", {**compare, "num_prompts": 2}, "holds 1 distinct prompts"),
        ("diffusion/compare.py", {**compare, "samples": 0}, "--samples must be at least 1"),
        ("diffusion/compare.py", {**compare, "scorers": ["x"]}, "scorer x: neither"),
        ("diffusion/compare.py", {**compare, "dtype": "half8"}, "torch has no such dtype"),
        ("dataset/main.py", {**make, "target": 3}, "--target has no effect with --prompts"),
        ("dataset/main.py", {**make, "prompts": None, "resolution": 8}, "no effect without"),
        ("dataset/main.py", {**make, "resolution": 18}, "must be a multiple of 4"),
        ("dataset/main.py", {**make, "prompts": "c.txt"}, "c.txt: no such file"),
    ]:
        with pytest.raises(SystemExit) as stop:
            run(path, options)
        assert stop.value.code == 2 and message in capsys.readouterr().err
    assert not Path("runs").exists()


def test_presets_are_the_published_recipes(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = program("diffusion/train_sd.py")
    types = (
        module.ModelArguments, module.DataArguments, module.ValidationArguments, module.TrainConfig
    )  # fmt: skip

    def parsed(name: str, *argv: str) -> tuple[Any, ...]:
        given = ["--config", str(CONFIGS / name), *argv]
        return module.arguments.parse(
            types, given, program="train_sd.py", aliases={"dataset": "dataset_name"}
        )

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
    for file in (CONFIGS / "accelerate").glob("*.yaml"):
        config = yaml.safe_load(file.read_text())
        assert config["num_processes"] >= 1 and isinstance(config["distributed_type"], str)
        assert ("ot tested here" in file.read_text()) == (file.stem in ("fsdp", "deepspeed"))


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


def test_help_is_short_and_says_whose_options_are_whose(
    program: Program, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["train_sd.py", "--help"])
    with pytest.raises(SystemExit):
        program("diffusion/train_sd.py").main()
    text = capsys.readouterr().out
    assert len(text.splitlines()) < 110
    for title in ("Model:", "Pairs:", "Pictures drawn in training:", "Loss and training:"):
        assert f"\n{title}" in text
    description = " ".join(text.split("\nModel:")[0].split())
    ours = re.search(r"fdpo's own options are (.*), and in the last group", description)
    assert ours and "have the names and meanings of diffusers" in description
    options = re.findall(r"^  --(\w+)", text, re.MULTILINE)
    last = options[options.index("loss") : options.index("reference_cache") + 1]
    theirs = set(options) - set(last) - set(re.findall(r"\w+", ours[1]))
    assert theirs == set(DIFFUSERS.split())
