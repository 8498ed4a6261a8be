"""The Python of README and docs runs as it stands there."""

import re
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]


def test_python_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    [code] = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    names: dict[str, object] = {}
    exec(compile(code, "README.md", "exec"), names)
    chosen = names["chosen"]
    assert isinstance(chosen, torch.Tensor) and chosen.grad is not None
    assert torch.isfinite(chosen.grad).all() and (chosen.grad < 0).all()
    assert "tensor(" in capsys.readouterr().out


def test_python_of_the_page_on_images_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    [code] = re.findall(r"```python\n(.*?)```", (ROOT / "docs/images.md").read_text(), re.DOTALL)
    (tmp_path / "pretrained").symlink_to(ROOT / "pretrained")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FDPO_CACHE", str(tmp_path / "cache"))
    exec(compile(code, "docs/images.md", "exec"), {})
    weights = "diffusion_pytorch_model.safetensors"
    assert (tmp_path / "runs/mine" / weights).exists()


def test_commands_and_links_exist() -> None:
    text = (ROOT / "README.md").read_text()
    for path in re.findall(
        r"(?:train_dpo|dataset|docs|diffusion)/[\w/.-]+\.(?:py|yaml|md|png)", text
    ):
        assert (ROOT / path).exists(), path
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)", text, re.MULTILINE):
        assert f"\n{target}:" in makefile, target
