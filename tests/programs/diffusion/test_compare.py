"""compare.py as its users meet it, on prompts, pairs and a LoRA of the programs before it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fdpo import runs
from fdpo.diffusion.text_to_image.pipeline import PipelineSource
from fdpo.preferences.schema import read_groups, read_pairs
from fdpo.programs.diffusion.compare import CompareArguments, model_sources
from tests.programs.diffusion.sd import Pipelines, Run, read_metrics, train


def test_prompts_become_pairs_a_lora_and_a_comparison(
    run_sd: Run, pipelines: Pipelines, tmp_path: Path, tiny_clip: Callable[[Path, str], str],
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """dataset/main.py, train_sd.py and compare.py use each other's output."""
    model, scorer = pipelines("sd-e"), f"clip={tiny_clip(tmp_path / 'clip', 'clip')}"
    Path("prompts.txt").write_text("a cat\na dog\n\na cat\na fox\na red fox\n")
    make = {
        "modality": "image", "model": model, "prompts": "prompts.txt", "scorer": scorer,
        "completions": 3, "sampling_steps": 2, "rule": "best_worst", "test_size": 0.25,
        "output_dir": "generated",
    }  # fmt: skip
    run_sd("dataset/main.py", make)
    groups = read_groups("generated/groups.jsonl")
    assert [group.prompt for group in groups] == ["a cat", "a dog", "a fox", "a red fox"]
    pairs = read_pairs("generated/train.jsonl") + read_pairs("generated/test.jsonl")
    assert len(pairs) == 4 and len(read_pairs("generated/test.jsonl")) == 1
    best = {group.prompt: group.completions[np.argmax(group.scores)] for group in groups}
    assert all(pair.chosen == best[str(pair.prompt)] for pair in pairs)
    images = {path.name: path.read_bytes() for path in Path("generated/pictures").iterdir()}
    assert len(images) == 12 == len(set(images.values()))
    assert "text-to-image" in Path("generated/README.md").read_text()
    Path("generated/README.md").unlink()  # as if it had been interrupted
    Path("generated/pictures/000002-1.png").unlink()
    run_sd("dataset/main.py", make)
    assert images == {p.name: p.read_bytes() for p in Path("generated/pictures").iterdir()}

    train(run_sd, model, rank=2, dataset="generated", learning_rate=1e-2)
    compare = {
        "model": "out", "prompts": "generated/groups.jsonl", "scorers": [scorer], "samples": 2,
        "num_inference_steps": 2, "output_dir": "compared",
    }  # fmt: skip
    capsys.readouterr()
    run_sd("diffusion/compare.py", compare)
    metrics = read_metrics("compared")
    assert 0 <= metrics[f"{scorer}_win_rate_low"] <= metrics[f"{scorer}_win_rate"] <= 1
    assert metrics[f"{scorer}_mean"] != metrics[f"{scorer}_base_mean"]
    page = Path("compared/index.html").read_text()
    assert page.count("<img") == 16 and "a red fox" in page
    assert Image.open("compared/sheet.png").size[1] > 8 * 256
    assert len(list(Path("compared/pictures").glob("*-policy.png"))) == 8
    assert scorer[:20] in capsys.readouterr().out
    run_sd("diffusion/compare.py", compare, reference="out", output_dir="itself", num_prompts=2)
    assert read_metrics("itself")[f"{scorer}_win_rate"] == 0.5


def test_wrong_comparisons_and_prompts(
    run_sd: Run, pipelines: Pipelines, capsys: pytest.CaptureFixture[str]
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
        ("dataset/main.py", {**make, "prompts": None, "revision": "v"}, "no effect without"),
        ("dataset/main.py", {**make, "resolution": 18}, "must be a multiple of 4"),
        ("dataset/main.py", {**make, "prompts": "c.txt"}, "c.txt: no such file"),
    ]:
        with pytest.raises(SystemExit) as stop:
            run_sd(path, options)
        assert stop.value.code == 2 and message in capsys.readouterr().err
    assert not Path("runs").exists()


def test_a_run_is_compared_in_the_variant_that_it_was_trained_with(
    run_sd: Run, pipelines: Pipelines, tmp_path: Path, tiny_clip: Callable[[Path, str], str],
    pair_folder: Path, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """The folder has no other weights; an untrained LoRA equals its reference image by image."""
    from diffusers import DiffusionPipeline

    scorer = f"clip={tiny_clip(tmp_path / 'clip', 'clip')}"
    DiffusionPipeline.from_pretrained(pipelines("sd-e")).save_pretrained("only", variant="fp16")
    Path("prompts.txt").write_text("a cat\na dog\n")
    train(
        run_sd, "only", variant="fp16", rank=2, dataset=str(pair_folder), learning_rate=1e-9,
    )  # fmt: skip
    compare = {
        "model": "out", "prompts": "prompts.txt", "scorers": [scorer], "num_inference_steps": 2,
        "output_dir": "compared",
    }  # fmt: skip
    run_sd("diffusion/compare.py", compare)
    assert read_metrics("compared")[f"{scorer}_win_rate"] == 0.5
    same = {**compare, "model": "only", "reference": "only", "variant": "fp16"}
    run_sd("diffusion/compare.py", same, output_dir="itself")
    assert read_metrics("itself")[f"{scorer}_win_rate"] == 0.5
    with pytest.raises(SystemExit):
        run_sd("diffusion/compare.py", compare, variant="bf16")
    assert "--variant bf16 has no effect" in capsys.readouterr().err
    make = {
        "modality": "image", "model": "only", "prompts": "prompts.txt", "scorer": scorer,
        "completions": 2, "sampling_steps": 2, "test_size": 0, "output_dir": "generated",
    }  # fmt: skip
    run_sd("dataset/main.py", make, variant="fp16")
    assert len(read_groups("generated/groups.jsonl")) == 2
    assert "variant" in Path("generated/README.md").read_text()


def test_revisions_are_those_of_the_training(tmp_path: Path) -> None:
    trained = {
        "pretrained_model_name_or_path": "me/base", "revision": "v2", "variant": "fp16",
        "pretrained_vae_model_name_or_path": "me/vae",
    }  # fmt: skip
    runs.write_json(tmp_path / runs.RECORD, {"options": trained})
    base = PipelineSource("me/base", "v2", "fp16", "me/vae")
    run = str(tmp_path)

    def sources(**options: str | None) -> list[PipelineSource]:
        return list(model_sources(CompareArguments(prompts="a.txt", **options)).values())  # type: ignore[arg-type]

    assert sources(model=run) == [PipelineSource(run), base]
    assert sources(model=run, reference="me/base") == [PipelineSource(run), base]
    other = PipelineSource("you/other", "v3")
    assert sources(model=run, reference="you/other", revision="v3") == [PipelineSource(run), other]
    assert sources(model="you/other", reference=run, revision="v3") == [other, PipelineSource(run)]
    with pytest.raises(ValueError, match="--revision v3 has no effect.*revision v2"):
        sources(model=run, revision="v3")
