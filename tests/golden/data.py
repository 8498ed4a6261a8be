"""Cases of the program that makes preference data."""

from __future__ import annotations

from typing import Any

from tests.golden.text import scored
from tests.golden.workplace import Workplace


def preference_data(work: Workplace, folder: str) -> dict[str, Any]:
    """Reads a folder of preference data; of its card the front matter without fingerprints."""
    front = work.front_matter(f"{folder}/README.md")
    for config in front["configs"]:
        del config["description"]
    files = [name for name in work.names(folder) if name.endswith(".jsonl")]
    return {
        **{name: work.rows(f"{folder}/{name}") for name in files},
        "front_matter": front,
        "files": work.names(folder),
        "options": work.json(f"{folder}/run.json")["options"],
    }


def dataset_text(work: Workplace) -> Any:
    """Samples, scores and pairs completions, and searches them with diverse beams."""
    work.run(
        "dataset", "--num_prompts", 6, "--completions", 3, "--max_new_tokens", 8, "--test_size",
        0.34, "--seed", 1, "--output_dir", "sampled",
    )  # fmt: skip
    prompts = work.folder / "prompts.txt"
    prompts.write_text("This film\nThe actors in this\nI have seen\n", encoding="utf-8")
    work.run(
        "dataset", "--prompts", prompts, "--method", "diverse_beams", "--completions", 3,
        "--max_new_tokens", 8, "--diversity", 2, "--no_repeat_ngram_size", 2, "--rule", "all",
        "--scorer_logit", "--generation_batch_size", 6, "--output_dir", "beams",
    )  # fmt: skip
    return {name: preference_data(work, name) for name in ("sampled", "beams")}


def dataset_groups(work: Workplace) -> Any:
    """Pairs and splits scored groups of a file."""
    data = work.once("groups", scored)
    work.run(
        "dataset", "--groups", data, "--rule", "top_bottom", "--k", 2, "--k_top", 2, "--min_gap",
        1, "--test_size", 0.2, "--output_dir", "paired",
    )  # fmt: skip
    return preference_data(work, "paired")


def dataset_images(work: Workplace) -> Any:
    """Samples, scores and pairs images of digits."""
    work.run(
        "dataset", "--modality", "image", "--num_groups", 2, "--completions", 8,
        "--sampling_steps", 3, "--target", 7, "--output_dir", "image-pairs",
    )  # fmt: skip
    return preference_data(work, "image-pairs")
