"""The Python, the commands and the links of README, docs and cards."""

import re
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted(ROOT.glob("docs/*.md")),
    *sorted(ROOT.glob("pretrained/**/*.md")),
]


def python_blocks(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)


def test_trainer_example_trains(
    tiny_model: Path,
    pair_rows: list[dict[str, str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The example of a model and a data set of the hub, on those of the tests."""
    import datasets

    code, _ = python_blocks("README.md")
    model = '"Qwen/Qwen2.5-0.5B-Instruct"'
    assert model in code and 'load_dataset("trl-lib/ultrafeedback_binarized"' in code
    monkeypatch.setattr(
        datasets, "load_dataset", lambda name, split: datasets.Dataset.from_list(pair_rows)
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FDPO_CACHE", str(tmp_path / "cache"))
    names: dict[str, object] = {}
    exec(compile(code.replace(model, repr(str(tiny_model))), "README.md", "exec"), names)
    log = names["trainer"].state.log_history  # type: ignore[attr-defined]
    assert log[-1]["train_loss"] > 0 and log[-1]["step"] > 0


def test_loss_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    _, code = python_blocks("README.md")
    names: dict[str, object] = {}
    exec(compile(code, "README.md", "exec"), names)
    chosen = names["chosen"]
    assert isinstance(chosen, torch.Tensor) and chosen.grad is not None
    assert torch.isfinite(chosen.grad).all() and (chosen.grad < 0).all()
    assert "tensor(" in capsys.readouterr().out


def test_python_of_the_page_on_images_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    [code] = python_blocks("docs/images.md")
    (tmp_path / "pretrained").symlink_to(ROOT / "pretrained")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FDPO_CACHE", str(tmp_path / "cache"))
    exec(compile(code, "docs/images.md", "exec"), {})
    weights = "diffusion_pytorch_model.safetensors"
    assert (tmp_path / "runs/mine" / weights).exists()


def test_paths_and_make_targets_exist() -> None:
    text = (ROOT / "README.md").read_text()
    for path in re.findall(
        r"(?:train_dpo|dataset|docs|diffusion)/[\w/.-]+\.(?:py|yaml|md|png)", text
    ):
        assert (ROOT / path).exists(), path
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make ([\w-]+)|`make ([\w-]+)`", text, re.MULTILINE):
        assert f"\n{''.join(target)}:" in makefile, target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_exist(page: Path) -> None:
    """Every ``python FILE`` and ``python -m MODULE`` names a program, every preset a file."""
    text = page.read_text()
    for file in re.findall(r"(?:python|accelerate launch) ([\w/]+\.py)", text):
        assert (ROOT / file).exists(), file
    for module in re.findall(r"python -m ([\w.]+)", text):
        spec = find_spec(module)
        if spec is not None and spec.submodule_search_locations:
            spec = find_spec(f"{module}.__main__")
        assert spec is not None and spec.origin is not None, module
        if ROOT in Path(spec.origin).parents and "site-packages" not in spec.origin:
            assert 'if __name__ == "__main__"' in Path(spec.origin).read_text(), module
    for family, preset in re.findall(r"(\w+)/\w+\.py[^`\n]* --config ([\w/.-]+)", text):
        name = Path(preset).stem
        assert (ROOT / f"fdpo/programs/configs/{family}/{name}.yaml").exists(), preset


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_to_files_exist(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+?)(?:#[\w-]*)?\)", page.read_text())
    missing = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert missing == []
