"""Scorers of images against the outputs of their models, and relabelled pairs."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from fdpo.diffusion.text_to_image.load_pairs import load_captioned_pairs
from fdpo.diffusion.text_to_image.relabel import relabelled, scorer_key
from fdpo.diffusion.text_to_image.scorers import AestheticsModel, get_image_scorer

Clip = Callable[[str], str]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory, tiny_clip: Callable[[Path, str], str]) -> Clip:
    root = tmp_path_factory.mktemp("clip")
    return lambda kind: tiny_clip(root / kind, kind)


@pytest.fixture
def paths(pair_folder: Path) -> list[str]:
    return sorted(str(path) for path in pair_folder.glob("*.png"))[:5]


def test_clip_and_pickscore_are_the_models_own_logits(clip: Clip, paths: list[str]) -> None:
    from transformers import CLIPModel, CLIPProcessor

    name = clip("clip")
    captions = ["a cat", "a dog", "", "a fox", "a cat"]
    model, processor = CLIPModel.from_pretrained(name), CLIPProcessor.from_pretrained(name)
    images = [Image.open(path) for path in paths]
    inputs = processor(text=captions, images=images, return_tensors="pt", padding=True)
    with torch.no_grad():
        logits = model(**inputs).logits_per_image.diagonal()
    for kind in ("clip", "pickscore"):
        scores = get_image_scorer(f"{kind}={name}")(captions, paths)
        torch.testing.assert_close(torch.tensor(scores), logits, rtol=1e-4, atol=1e-4)
    assert logits.std() > 0.01


def test_long_captions_are_cut(clip: Clip, paths: list[str]) -> None:
    scorer = get_image_scorer(f"clip={clip('clip')}")
    assert scorer(["x" * 500], paths[:1]) == pytest.approx(scorer(["x" * 400], paths[:1]))


def test_aesthetics_is_the_head_on_the_embeddings_direction(clip: Clip, paths: list[str]) -> None:
    from transformers import CLIPImageProcessor

    name = clip("aesthetics")
    model: Any = AestheticsModel.from_pretrained(name).eval()
    inputs = CLIPImageProcessor.from_pretrained(name)(
        images=[Image.open(path) for path in paths], return_tensors="pt"
    )
    with torch.no_grad():
        embeds = torch.nn.functional.normalize(model(**inputs).image_embeds, dim=1)
        for index in (0, 2, 4, 6, 7):  # where the published weights have them
            embeds = model.layers[index](embeds)
    scores = get_image_scorer(f"aesthetics={name}")(["any"] * 5, paths)
    torch.testing.assert_close(torch.tensor(scores), embeds[:, 0], rtol=1e-4, atol=1e-5)


USER_SCORERS = """
from PIL import Image
calls = []
def redness(captions, paths):
    calls.append(list(zip(captions, paths)))
    pixels = [Image.open(path).convert("RGB").resize((1, 1)).getpixel((0, 0)) for path in paths]
    return [red - blue for red, _, blue in pixels]
def same(captions, paths):
    return [0.5] * len(paths)
"""


@pytest.fixture
def user_scorers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    import importlib

    (tmp_path / "user_scorers.py").write_text(USER_SCORERS)
    monkeypatch.syspath_prepend(tmp_path)
    return importlib.reload(importlib.import_module("user_scorers"))


def test_a_scorer_relabels_pairs_and_scores_each_image_once(
    user_scorers: Any, pair_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fdpo.diffusion.text_to_image.relabel.PART", 6)
    rows = [json.loads(line) for line in (pair_folder / "train.jsonl").read_text().splitlines()]
    for i in (1, 4):  # the blue one is said to have won
        rows[i]["chosen"], rows[i]["rejected"] = rows[i]["rejected"], rows[i]["chosen"]
    rows += [rows[0] | {"rejected": rows[3]["rejected"]}, {**rows[2], "rejected": "copy.png"}]
    (pair_folder / "copy.png").write_bytes((pair_folder / rows[2]["chosen"]).read_bytes())
    (pair_folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pairs, _ = load_captioned_pairs(str(pair_folder))
    spec = "user_scorers:redness"
    result, counts = relabelled(pairs, get_image_scorer(spec), spec, tmp_path / "cache")
    assert counts == {"candidates": 10, "ties": 1, "made": 9}
    reds = {path.read_bytes() for path in pair_folder.glob("chosen-*.png")}
    assert all(result.read(i, "chosen") in reds for i in range(9))
    # Sixteen images and one with another caption; the copy is the same image.
    assert [len(call) for call in user_scorers.calls] == [6, 6, 5]
    again, _ = relabelled(pairs, get_image_scorer(spec), spec, tmp_path / "cache")
    assert again.winners == result.winners and len(user_scorers.calls) == 3
    for file in (tmp_path / "cache").rglob("*.jsonl"):
        file.write_bytes(file.read_bytes()[:-20])
    with pytest.warns(UserWarning, match="is damaged and made again") as notes:
        again, _ = relabelled(pairs, get_image_scorer(spec), spec, tmp_path / "cache")
    assert again.winners == result.winners and len(user_scorers.calls) == 6 and len(notes) == 1
    with pytest.raises(ValueError, match="user_scorers:same: scores both images of all 10 pairs"):
        relabelled(pairs, get_image_scorer("user_scorers:same"), "user_scorers:same", tmp_path)


def test_cached_scores_belong_to_the_scorers_code(
    user_scorers: Any, tmp_path: Path, clip: Clip
) -> None:
    before = scorer_key("user_scorers:redness")
    assert before != scorer_key("user_scorers:same") and before == scorer_key(
        "user_scorers:redness"
    )
    (tmp_path / "user_scorers.py").write_text(USER_SCORERS + "\n")
    assert scorer_key("user_scorers:redness") != before
    assert scorer_key(f"clip={clip('clip')}") != scorer_key(f"clip={clip('aesthetics')}")


def test_wrong_scorers(clip: Clip, tmp_path: Path, user_scorers: Any) -> None:
    for spec, message in [
        ("beauty", "neither pickscore, clip, aesthetics nor package.module:function"),
        ("clip=./nowhere", "no such folder, and no hub id"),
        (f"clip={tmp_path}", "cannot be loaded"),
        (f"aesthetics={clip('clip')}", "no weights layers.0, layers.2"),
        ("user_scorers:absent", "user_scorers has no 'absent'"),
    ]:
        with pytest.raises(ValueError, match=f"scorer {spec}: .*{message}") as caught:
            get_image_scorer(spec)
        assert "\n" not in str(caught.value)


def test_the_documented_scorer_of_another_environment_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a package of HPS v2's name and interface in place of itself."""
    text = (Path(__file__).parents[3] / "docs/stable-diffusion.md").read_text()
    [code] = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    (tmp_path / "hps.py").write_text(code.replace('"hps/bin/python"', repr(sys.executable)))
    (tmp_path / "hpsv2.py").write_text(
        "def score(path, prompt, hps_version): return [len(path) + len(prompt) / 100]\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    scores = get_image_scorer("hps:score")(["a", "abc"], ["x.png", "long.png"])
    assert scores == [5.01, 8.03]
