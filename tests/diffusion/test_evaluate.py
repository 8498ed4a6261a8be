"""Samples, held-out loss and path KL of image models."""

import io
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.unets.unet_2d import UNet2DOutput
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm.auto import tqdm

from fdpo.diffusion import DDPM, Flow, NoiseProcess, PixelUNet
from fdpo.diffusion.evaluate import held_out_loss, path_kl, reference_images, sample_images
from tests.diffusion.tiny import tiny_model

PROCESSES: list[NoiseProcess] = [DDPM(), Flow()]
every_process = pytest.mark.parametrize("process", PROCESSES, ids=["ddpm", "flow"])


def images(n: int) -> Tensor:
    return torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(5)) * 2 - 1


@every_process
def test_samples_follow_from_the_seed(process: NoiseProcess) -> None:
    """Whatever the size of the batches."""
    model = tiny_model()
    options: dict[str, Any] = {"steps": 2, "seed": 4}
    samples = sample_images(model, process, 5, **options)
    assert samples.shape == (5, 1, 8, 8) and samples.abs().max() <= 1
    parts = sample_images(model, process, 5, **options, batch_size=2)
    torch.testing.assert_close(parts, samples, rtol=1e-4, atol=1e-4)
    assert not torch.equal(sample_images(model, process, 5, steps=2, seed=5), samples)


def test_one_bar_counts_all_model_evaluations(monkeypatch: pytest.MonkeyPatch) -> None:
    bars: list[Any] = []
    shown: list[bool] = []

    class Bar(tqdm):
        def __init__(self, **options: Any) -> None:
            super().__init__(**options, file=io.StringIO())
            bars.append(self)
            shown.append(not self.disable)  # closing a bar disables it

    monkeypatch.setattr("fdpo.diffusion.evaluate.tqdm", Bar)
    sample_images(tiny_model(), Flow(), 5, steps=3, batch_size=2, progress="sampling")
    sample_images(tiny_model(), Flow(), 2, steps=1)
    assert shown == [True, False]
    assert bars[0].n == bars[0].total == 9 and bars[0].desc == "sampling"


def test_a_reference_is_sampled_once(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, other = (PixelUNet(block_out_channels=(8, 16), norm_num_groups=4) for _ in range(2))
    options: dict[str, Any] = {"model": model, "process": Flow(), "n": 3, "steps": 2}
    fresh = reference_images(**options, folder="off")
    folder = str(tmp_path)
    assert torch.equal(reference_images(**options, folder=folder), fresh)
    [file] = tmp_path.iterdir()
    save_file({"pictures": fresh + 1}, file)
    assert torch.equal(reference_images(**options, folder=folder), fresh + 1)  # read from the file
    for change in ({"process": DDPM()}, {"n": 4}, {"steps": 3}, {"seed": 5}, {"model": other}):
        fresh = reference_images(**options | change, folder="off")
        assert torch.equal(reference_images(**options | change, folder=folder), fresh)
    assert len(list(tmp_path.iterdir())) == 6


class Shifted(nn.Module):
    """A model whose predictions differ by a constant from another's."""

    def __init__(self, model: nn.Module, shift: float) -> None:
        super().__init__()
        self.model, self.shift = model, shift

    def forward(self, x: Tensor, times: Tensor) -> Any:
        output = self.model(x, times)
        output.sample = output.sample + self.shift
        return output


@every_process
def test_path_kl_of_a_shift_is_the_mean_path_weight(process: NoiseProcess) -> None:
    model, x = tiny_model(), images(400)
    assert path_kl(model, model, process, x) == (0, 0)
    kl, error = path_kl(Shifted(model, 0.1), model, process, x, draws=8)
    generator = torch.Generator().manual_seed(1)
    times = process.uniform_times(200_000, generator)
    expected = 64 * 0.01 * process.path_weights(times).double().mean().item()
    assert error > 0 and kl == pytest.approx(expected, rel=0.15)


class Zero(nn.Module):
    """A model that predicts 0."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor, times: Tensor) -> Any:
        return UNet2DOutput(sample=0 * x)


@every_process
def test_held_out_loss_of_zero_is_the_variance_of_the_target(process: NoiseProcess) -> None:
    x = images(300)
    expected = 1.0 if isinstance(process, DDPM) else 1 + x.square().mean().item()
    assert held_out_loss(Zero(), process, x) == pytest.approx(expected, rel=0.03)
