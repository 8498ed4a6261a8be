"""Samples, held-out loss and path KL divergence of image models."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm.auto import tqdm

from fdpo.diffusion.models import image_shape, predictor
from fdpo.diffusion.noise import STEPS, NoiseProcess, errors
from fdpo.runs.cache import OFF, cached, fingerprint, model_config, reference_folder
from fdpo.runs.folder import versions

HELD_OUT_SEED = 1_000_003
"""The seed of the noise in comparisons of models; no training uses it."""
BATCH = 256  # images per forward pass


@torch.no_grad()
def sample_images(
    model: nn.Module,
    process: NoiseProcess,
    n: int,
    *,
    steps: int = STEPS,
    seed: int = 0,
    batch_size: int = BATCH,
    progress: str = "",
) -> Tensor:
    """Samples n images.

    Arguments:
        model: The model.
        process: Its noising process.
        n: The number of images.
        steps: Model evaluations per image.
        seed: The seed of the noise; the same seed gives the same noise.
        batch_size: Images per forward pass.
        progress: The title of the progress bar; empty for none.

    Returns:
        The images, with shape (n, C, H, W), on the CPU.
    """
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(n, *image_shape(model), generator=generator)
    device = next(model.parameters()).device
    predict = predictor(model.eval())
    batches = noise.split(batch_size)
    with tqdm(
        desc=progress, total=len(batches) * steps, unit=" steps", disable=not progress, leave=False
    ) as bar:

        def predict_and_count(x: Tensor, times: Tensor) -> Tensor:
            bar.update()
            return predict(x, times)

        images = [process.sample(predict_and_count, b.to(device), steps).cpu() for b in batches]
    return torch.cat(images)


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
    """Samples images as :func:`sample_images` does, or reads them from the reference cache.

    Their name in the cache depends on the model's weights and configuration, the process, the
    options, the device's type and the versions of fdpo and its libraries.

    Arguments:
        model: The reference.
        process: Its noising process.
        n: The number of images.
        steps: Model evaluations per image.
        seed: The seed of the noise.
        folder: The folder of the reference cache (:meth:`fdpo.runs.cache.ReferenceCache.open`);
            ``off`` disables it.
        progress: The title of the progress bar; empty for none.

    Returns:
        The images, with shape (n, C, H, W).
    """
    options = {"steps": steps, "seed": seed}

    def sample() -> Tensor:
        return sample_images(model, process, n, **options, progress=progress)

    parent = None if folder == OFF else reference_folder(folder)
    if parent is None:
        return sample()
    noising = type(process).__name__, dict(process.scheduler().config)
    device = next(model.parameters()).device.type
    name = fingerprint(
        model.named_parameters(), model_config(model), noising, n, options, device, versions()
    )

    def read(path: Path) -> Tensor:
        images = load_file(path)["pictures"]
        if images.shape != (n, *image_shape(model)) or not images.isfinite().all():
            raise ValueError(f"it holds images with shape {tuple(images.shape)}")
        return images

    return cached(
        parent / f"pictures-{name}.safetensors",
        sample,
        read=read,
        write=lambda path, images: save_file({"pictures": images}, path),
    )


@torch.no_grad()
def held_out_loss(model: nn.Module, process: NoiseProcess, images: Tensor, seed: int = 0) -> float:
    """Returns the mean squared error of the target over images, with one time and noise for each.

    Arguments:
        model: The model.
        process: Its noising process.
        images: Held-out images, with shape (N, C, H, W).
        seed: The seed of times and noise.
    """
    generator = torch.Generator().manual_seed(seed)
    total, device = 0.0, next(model.parameters()).device
    for batch in images.split(BATCH):
        times = process.draw_times(len(batch), generator).to(device)
        noise = torch.randn(batch.shape, generator=generator).to(device)
        x = batch.to(device)
        prediction = predictor(model)(process.noised(x, noise, times), process.model_times(times))
        total += errors(prediction, process.target(x, noise, times)).sum().item()
    return total / len(images)


@torch.no_grad()
def path_kl(
    policy: nn.Module,
    reference: nn.Module,
    process: NoiseProcess,
    images: Tensor,
    *,
    draws: int = 4,
    seed: int = 0,
) -> tuple[float, float]:
    r"""Estimates the KL divergence of the policy's paths from the reference's, in nats.

    The estimate is :math:`D\,E_t[T w_t\, \tfrac{1}{D}\lVert \text{policy} -
    \text{reference}\rVert^2]` at noised samples of the policy. It bounds the KL divergence of the
    images from above, up to the difference between the policy's reverse paths and its noised
    samples.

    Arguments:
        policy: The policy.
        reference: The reference.
        process: Their noising process.
        images: Samples of the policy, with shape (N, C, H, W).
        draws: Times per image, one from each of as many equal parts of the time's range.
        seed: The seed of times and noise.

    Returns:
        The mean over images and its standard error.
    """
    generator = torch.Generator().manual_seed(seed)
    dims, sums = images[0].numel(), torch.zeros(len(images))
    # Sorted and split into equal parts: each image gets a time from every part of the range.
    times = process.uniform_times(draws * len(images), generator).sort().values
    times = times.view(draws, len(images))
    device = next(policy.parameters()).device
    for part in times:
        order = torch.randperm(len(images), generator=generator)
        noise = torch.randn(images.shape, generator=generator)
        t = part[order]
        x_t = process.noised(images, noise, t).to(device)
        model_t = process.model_times(t).to(device)
        for i in torch.arange(len(images)).split(BATCH):
            gap = predictor(policy)(x_t[i], model_t[i]) - predictor(reference)(x_t[i], model_t[i])
            squares = gap.float().square().flatten(1).mean(1).cpu()
            sums[i] += dims * process.path_weights(t[i]) * squares
    estimates = sums / draws
    return estimates.mean().item(), estimates.std().item() / math.sqrt(len(estimates))
