"""A reference's samples, drawn once and kept on disk for all runs that compare with it."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from fdpo.diffusion.evaluate import HELD_OUT_SEED, sample_images
from fdpo.diffusion.noise import STEPS, NoiseProcess
from fdpo.runs.cache import OFF, cached_file, fingerprint, model_config, reference_folder
from fdpo.runs.folder import versions


def reference_images(
    model: nn.Module,
    process: NoiseProcess,
    n: int,
    *,
    steps: int = STEPS,
    seed: int = HELD_OUT_SEED,
    folder: str | None = None,
    progress: str = "",
) -> Tensor:
    """Draws pictures as `fdpo.diffusion.evaluate.sample_images` does, or reads what it drew.

    They are kept under a name that holds the model's weights and configuration, the process, the
    options, the device's type and the versions of fdpo and the libraries below it.

    Arguments:
        model: The reference.
        process: Its noising process.
        n: The number of pictures.
        steps: Evaluations of the model a picture.
        seed: The seed of the noise.
        folder: Where references' numbers are kept (`fdpo.runs.cache.ReferenceCache.open`);
            ``off`` draws the pictures and keeps nothing.
        progress: What the progress bar says.

    Returns:
        The pictures, with shape (n, C, H, W).
    """
    options = {"steps": steps, "seed": seed}
    if folder == OFF:
        return sample_images(model, process, n, **options, progress=progress)
    noising = type(process).__name__, dict(process.scheduler().config)
    device = next(model.parameters()).device.type
    name = fingerprint(
        model.named_parameters(), model_config(model), noising, n, options, device, versions()
    )
    file = reference_folder(folder) / f"pictures-{name}.safetensors"

    def write(path: Path) -> None:
        images = sample_images(model, process, n, **options, progress=progress)
        save_file({"pictures": images}, path)

    return load_file(cached_file(file, write))["pictures"]
