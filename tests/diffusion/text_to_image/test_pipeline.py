"""Stable Diffusion pipelines: conditions, generated images, trained models, errors."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline

from fdpo.diffusion.text_to_image.pipeline import base_model, load_pipeline
from tests.diffusion.text_to_image.trainers import Pipelines


def test_conditions_are_the_pipelines_own(pipelines: Pipelines) -> None:
    model = load_pipeline(pipelines("xl-e"))
    text = model.encode_text(["a cat", ""])
    sizes = torch.tensor([[20.0, 16, 2, 0, 16, 16]]).repeat(2, 1)
    conditions = model.conditions(text, sizes)
    width = model.text_encoders[1].config.projection_dim
    expected = model.pipeline._get_add_time_ids((20, 16), (2, 0), (16, 16), torch.float32, width)
    assert torch.equal(conditions["added_cond_kwargs"]["time_ids"][:1], expected)
    assert text["text_embeds"].shape == (2, 8)
    assert text["encoder_hidden_states"].shape == (2, 16, 32)
    plain = load_pipeline(pipelines("sd-e"))
    assert set(plain.conditions(plain.encode_text(["a cat"]), sizes)) == {"encoder_hidden_states"}


@pytest.mark.parametrize("kind", ["sd-e", "xl-v"])
def test_images_are_those_of_the_pipeline(pipelines: Pipelines, kind: str) -> None:
    """Whatever the batch; the pipeline itself generates the same with the same generators."""
    model = load_pipeline(pipelines(kind))
    prompts, seeds = ["a cat", "a dog", "a fox"], [5, 6, 7]
    images = model.generate(model.unet, prompts, seeds, steps=3, guidance_scale=3.0)
    pipeline = DiffusionPipeline.from_pretrained(pipelines(kind))
    pipeline.set_progress_bar_config(disable=True)
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    expected = pipeline(
        prompts, num_inference_steps=3, guidance_scale=3.0, generator=generators
    ).images
    alone = model.generate(model.unet, prompts[1:2], seeds[1:2], steps=3, guidance_scale=3.0)
    assert images[0].size == (16, 16)
    for image, other in [*zip(images, expected, strict=True), (images[1], alone[0])]:
        gap = np.abs(np.asarray(image, dtype=int) - np.asarray(other, dtype=int))
        assert gap.max() <= 1
    assert np.asarray(images[0]).std() > 1 and images[0] != images[1]


def test_unsupported_models_are_named(pipelines: Pipelines, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    shutil.copytree(pipelines("sd-e", channels=9), tmp_path / "inpainting")
    others = {"inpaint": "StableDiffusionInpaintPipeline", "sd3": "StableDiffusion3Pipeline"}
    for name, kind in others.items():
        folder = shutil.copytree(pipelines("sd-e"), tmp_path / name)
        index = json.loads((folder / "model_index.json").read_text())
        (folder / "model_index.json").write_text(json.dumps(index | {"_class_name": kind}))
    sample = shutil.copytree(pipelines("sd-e"), tmp_path / "sample")
    config = json.loads((sample / "scheduler/scheduler_config.json").read_text())
    (sample / "scheduler/scheduler_config.json").write_text(
        json.dumps(config | {"prediction_type": "sample"})
    )
    bare = shutil.copytree(pipelines("sd-e"), tmp_path / "bare")
    (bare / "unet/diffusion_pytorch_model.safetensors").unlink()
    for name, message in [
        ("empty", "this folder is no pipeline"),
        ("nowhere", "no such folder, and no hub id"),
        (
            "inpaint",
            "is a StableDiffusionInpaintPipeline; supported are StableDiffusionPipeline and",
        ),
        ("sd3", "is a StableDiffusion3Pipeline; supported are"),
        ("inpainting", "takes 9 channels, latents have 4: is it an inpainting model"),
        ("sample", "the model predicts 'sample'"),
        ("bare", "cannot be loaded"),
    ]:
        with pytest.raises(ValueError, match=message) as caught:
            load_pipeline(str(tmp_path / name))
        assert "\n" not in str(caught.value), name
    with pytest.raises(ValueError, match="model nobody/nothing: "):
        load_pipeline("nobody/nothing")
    with pytest.raises(ValueError, match="--resolution 18: must be a multiple of 4"):
        load_pipeline(pipelines("sd-e")).latent_shape(18)


def test_the_base_of_a_run_is_in_its_record(tmp_path: Path) -> None:
    record = tmp_path / "run.json"
    record.write_text('{"options": {"pretrained_model_name_or_path": "me/model"}}')
    assert base_model(tmp_path) == "me/model"
    record.write_text('{"options": {"beta": 1}}')
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ValueError, match=f"{folder}: no run.json names the pipeline"):
            base_model(folder)


def test_a_pipeline_imports_no_module_that_its_files_name(
    pipelines: Pipelines, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(pipelines("sd-e"), tmp_path / "model")
    planted = "open('ran', 'a').close()\nclass UNet2DConditionModel: pass\n"
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for place in (tmp_path, tmp_path / "model", tmp_path / "model/unet"):
        (place / "planted.py").write_text(planted, encoding="utf-8")
    file = tmp_path / "model/model_index.json"
    index = json.loads(file.read_text())
    for part in ("unet", "scheduler", "vae", "tokenizer"):
        for module in ("planted", "os"):
            file.write_text(json.dumps({**index, part: [module, "UNet2DConditionModel"]}))
            with pytest.raises(ValueError, match="model model: "):
                load_pipeline("model")
    file.write_text(json.dumps({**index, "_class_name": ["planted", "StableDiffusionPipeline"]}))
    with pytest.raises(ValueError, match="model model: is a"):
        load_pipeline("model")
    assert not (tmp_path / "ran").exists()
