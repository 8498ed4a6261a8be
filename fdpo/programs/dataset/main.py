"""Makes preference data: prompts, completions of a model, scores, pairs by rank, train and test.

    python dataset/main.py
    python dataset/main.py --config imdb
    python dataset/main.py --groups scored.jsonl.gz --k 3 --k_top 4
    python dataset/main.py --modality image --target 2
    python dataset/main.py --modality image --model runwayml/stable-diffusion-v1-5 --prompts a.txt

With no arguments the embedded IMDb model completes prompts that it samples itself, and the embedded
sentiment classifier scores them. ``datasets.load_dataset`` loads the folder. The same command
resumes an interrupted one; the processes of ``torchrun`` and ``accelerate launch`` share the work.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import fields
from pathlib import Path
from typing import Any

from fdpo import preferences
from fdpo.cli import arguments
from fdpo.cli.choice import choose
from fdpo.cli.program import Run
from fdpo.cli.quiet import quiet_libraries
from fdpo.preferences.dataset import CARD, write_dataset
from fdpo.preferences.generate import remove_parts
from fdpo.programs.dataset.options import DatasetArguments, ImageArguments, SourceArguments
from fdpo.runs.distributed import end_with_parent, is_main_process
from fdpo.runs.hub import upload

FILES = ("README.md", "train.jsonl", "test.jsonl", "groups.jsonl", "pictures/*.png")
"""The files of a data set on the hub."""


def main() -> None:
    quiet_libraries()
    end_with_parent()
    modality = choose("modality", ("text", "image"), presets="dataset")
    description = (__doc__ or "").split("\n")[0]
    images = modality == "image"
    *sources, args = arguments.parse(
        option_types(modality),
        program="main.py --modality image" if images else "main.py",
        presets="dataset",
        description=description.replace("completions", "images") if images else description,
        check=require_effect,
    )
    folder = Path(args.output_dir or f"runs/dataset-{default_name(sources[0], args)}")
    options = arguments.resolved(*sources, args)
    with Run("main.py", folder, options, repeatable=True) as run:
        complete = (folder / CARD).exists()
        counts = Counter() if complete else make(run, sources, args)
        if complete and is_main_process():
            remove_parts(folder)
    if is_main_process():
        report(folder, counts, args.push_to_hub)


def option_types(modality: str) -> tuple[type, ...]:
    """Returns the dataclasses of a modality's options."""
    if modality == "image":
        return ImageArguments, DatasetArguments
    from fdpo.llm.generation.options import CompletionArguments

    return SourceArguments, CompletionArguments, DatasetArguments


def require_effect(*parsed: Any) -> None:
    """Raises `ValueError` for options that would have no effect."""
    *sources, args = parsed
    idle = [
        f"--{option.name}"
        for source in sources
        for option in fields(source)
        if args.groups and getattr(source, option.name) != option.default
    ]
    if idle:
        raise ValueError(f"no effect with --groups, whose scores exist: {', '.join(idle)}")
    unprompted = args.modality == "image" and not sources[0].prompts
    if unprompted and args.test_size != DatasetArguments.test_size:
        raise ValueError("test_size has no effect: these images have no prompts to split by")


def default_name(source: SourceArguments | ImageArguments, args: DatasetArguments) -> str:
    """Returns the name of the default output folder."""
    if args.groups:
        return Path(args.groups).name.split(".")[0]
    if isinstance(source, ImageArguments) and not source.prompts:
        return f"{Path(source.model).name}-{source.target}"
    return Path(source.model).name


def make(run: Run, sources: list[Any], args: DatasetArguments) -> Counter[str]:
    """Makes the data set; returns the counts of its pairs."""
    if args.groups:
        return pair_groups(run, args)
    if args.modality == "image":
        from fdpo.programs.dataset.image import generate as generate_images

        [image] = sources
        return generate_images(run, image, args)
    from fdpo.programs.dataset.text import generate as generate_texts

    source, completions = sources
    return generate_texts(run, source, completions, args)


def pair_groups(run: Run, args: DatasetArguments) -> Counter[str]:
    """Pairs and splits the scored groups of a file."""
    groups = preferences.read_groups(str(args.groups))
    pairs, _ = preferences.make_pairs(groups, **args.pairing_options(), source=str(args.groups))
    test_size = 0.0 if args.modality == "image" else args.test_size
    preferences.split_by_prompt(pairs, test_size, args.seed)  # raises if it cannot
    run.start()
    provenance = {"groups": Path(str(args.groups)).name} | args.pairing_options()
    return write_dataset(
        run.folder,
        groups,
        provenance=provenance | {"test_size": test_size},
        pairing=args,
        test_size=test_size,
        seed=args.seed,
    )


def report(folder: Path, counts: Counter[str], hub_id: str | None) -> None:
    """Prints the counts and a pair, and uploads the folder where a hub id is given."""
    print(preferences.describe(counts) if counts else f"{folder} was complete already")
    first = preferences.read_pairs(folder / "train.jsonl")[0]
    print(f"\nprompt    {first.prompt!r}")
    print(f"chosen    {first.chosen!r} (score {first.chosen_score:.3f})")
    print(f"rejected  {first.rejected!r} (score {first.rejected_score:.3f})\n")
    print(f"datasets.load_dataset({str(folder)!r}) loads it; {folder / CARD} says more")
    if hub_id:
        upload(folder, hub_id, FILES, kind="dataset")
        print(f"uploaded to {hub_id}")


if __name__ == "__main__":
    main()
