"""A reference's samples, drawn once and kept on disk for all runs that compare with it."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from fdpo.diffusion.evaluation import HELD_OUT_SEED, sample_pictures
from fdpo.diffusion.models import model_facts
from fdpo.diffusion.processes import STEPS, Process
from fdpo.reference_cache import OFF, default_folder, fingerprint
from fdpo.runs import replacing, versions


def reference_pictures(
    model: nn.Module,
    process: Process,
    n: int,
    *,
    steps: int = STEPS,
    seed: int = HELD_OUT_SEED,
    folder: str | None = None,
    progress: str = "",
) -> Tensor:
    """Draws pictures as `fdpo.diffusion.evaluation.sample_pictures` does, or reads what it drew.

    They are kept under a name that holds the model's weights and configuration, the process, the
    options, the device's type and the versions of fdpo and the libraries below it.

    Arguments:
        model: The reference.
        process: Its noising process.
        n: The number of pictures.
        steps: Evaluations of the model a picture.
        seed: The seed of the noise.
        folder: Where references' numbers are kept (`fdpo.reference_cache.ReferenceCache.of`);
            ``off`` draws the pictures and keeps nothing.
        progress: What the progress bar says.

    Returns:
        The pictures, with shape (n, C, H, W).
    """
    options = {"steps": steps, "seed": seed}
    if folder == OFF:
        return sample_pictures(model, process, n, **options, progress=progress)
    noising = type(process).__name__, dict(process.scheduler().config)
    device = next(model.parameters()).device.type
    name = fingerprint(
        model.named_parameters(), model_facts(model), noising, n, options, device, versions()
    )
    kept = Path(folder or default_folder() / "reference") / f"pictures-{name}.safetensors"
    if not kept.exists():
        drawn = sample_pictures(model, process, n, **options, progress=progress)
        with replacing(kept) as beside:
            save_file({"pictures": drawn}, beside)
    return load_file(kept)["pictures"]
