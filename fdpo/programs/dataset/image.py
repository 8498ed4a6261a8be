"""Images of a diffusion model as preference data, the image modality of dataset/main.py."""

from __future__ import annotations

from collections import Counter

import torch

from fdpo.cli.program import Run
from fdpo.preferences.generate import image_scorer, make_dataset
from fdpo.preferences.prompts import read_prompts
from fdpo.programs.dataset.options import DatasetArguments, ImageArguments, plain_provenance
from fdpo.runs.distributed import keep_freed_memory, partial_state
from fdpo.scorers import get_scorer


def generate(run: Run, image: ImageArguments, args: DatasetArguments) -> Counter[str]:
    """Generates and scores images, and writes the data set of their pairs."""
    modality = generate_prompted if image.prompts else generate_unprompted
    return modality(run, image, args)


def generate_unprompted(run: Run, image: ImageArguments, args: DatasetArguments) -> Counter[str]:
    """Generates groups of images without prompts, such as MNIST's digits."""
    from fdpo.diffusion import models
    from fdpo.tasks.mnist_classifier import load_classifier
    from fdpo.tasks.mnist_feedback import digit_scorer, sample_groups

    keep_freed_memory()
    device = partial_state().device
    model, process = models.load_image_model(image.model, device)
    if image.scorer:
        scorer = get_scorer(image.scorer)
    else:
        classifier = load_classifier(image.classifier, device)
        scorer = digit_scorer(classifier, image.target, models.image_shape(model))
    run.start()
    complete = sample_groups(
        run.folder, model, process,
        groups=image.num_groups, group_size=image.completions, steps=image.sampling_steps,
        seed=args.seed,
    )  # fmt: skip
    pairing = args.pairing_options() | {"seed": args.seed}
    return make_dataset(
        run.folder,
        [""] * image.num_groups,
        complete,
        image_scorer(scorer, run.folder),
        provenance=plain_provenance(image.provenance() | pairing),
        pairing=args,
        test_size=0.0,
        seed=args.seed,
        task="unconditional-image-generation",
    )


def generate_prompted(run: Run, image: ImageArguments, args: DatasetArguments) -> Counter[str]:
    """Generates images of prompts with Stable Diffusion."""
    from fdpo.diffusion.text_to_image.feedback import completer
    from fdpo.diffusion.text_to_image.pipeline import GUIDANCE, PipelineSource
    from fdpo.diffusion.text_to_image.scorers import get_image_scorer, try_scorers

    device = partial_state().device
    prompts = read_prompts(str(image.prompts), image.num_prompts, captions=True)
    dtype = getattr(torch, image.dtype or "float32")
    source = PipelineSource(image.model, image.revision, image.variant)
    model = source.load(device, dtype=dtype, unet_dtype=dtype)
    resolution = image.resolution or model.resolution
    model.latent_shape(resolution)
    scorer = get_image_scorer(image.scorer or "pickscore", device)
    try_scorers([scorer])
    run.start()
    options = {
        "steps": image.sampling_steps,
        "guidance_scale": GUIDANCE if image.guidance_scale is None else image.guidance_scale,
        "resolution": resolution,
    }
    pairing = args.pairing_options() | {"test_size": args.test_size, "seed": args.seed}
    return make_dataset(
        run.folder,
        prompts,
        completer(run.folder, model, group_size=image.completions, seed=args.seed, **options),
        image_scorer(scorer, run.folder),
        provenance=plain_provenance(image.provenance() | options | pairing),
        pairing=args,
        test_size=args.test_size,
        seed=args.seed,
        task="text-to-image",
    )
