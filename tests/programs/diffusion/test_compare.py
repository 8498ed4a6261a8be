"""compare.py as its users meet it, on prompts, pairs and a LoRA of the programs before it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fdpo.preferences.schema import read_groups, read_pairs
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
        ("dataset/main.py", {**make, "resolution": 18}, "must be a multiple of 4"),
        ("dataset/main.py", {**make, "prompts": "c.txt"}, "c.txt: no such file"),
    ]:
        with pytest.raises(SystemExit) as stop:
            run_sd(path, options)
        assert stop.value.code == 2 and message in capsys.readouterr().err
    assert not Path("runs").exists()
