"""Data sets of preferences: folders of pairs to train and test on, scored groups, and a card."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from fdpo.cards import dataset_card, markdown_table
from fdpo.preferences.pairs import Group, PairingConfig, make_pairs, split_by_prompt
from fdpo.preferences.schema import write_pairs
from fdpo.runs.files import write_text
from fdpo.runs.rows import write_rows

CARD = "README.md"  # written last: a folder that has one is complete


def write_dataset(
    folder: Path,
    groups: Sequence[Group],
    *,
    provenance: Mapping[str, object],
    pairing: PairingConfig | None = None,
    test_size: float = 0.1,
    seed: int = 0,
    source: str = "the groups",
    task: str = "text-generation",
) -> Counter[str]:
    """Pairs scored groups and writes a folder that `datasets.load_dataset` loads.

    ``train.jsonl`` and ``test.jsonl`` hold the pairs, split by prompt; ``groups.jsonl`` the groups,
    each with its ``split``; ``README.md`` the card.

    Arguments:
        folder: The folder.
        groups: The scored groups.
        provenance: The origin of the data by name, for the card.
        pairing: The pairing of a group's completions.
        test_size: The share of the prompts to hold out.
        seed: The seed of the split.
        source: The name of the groups in errors.
        task: The hub's name of the data's use.

    Returns:
        The counts of :func:`fdpo.preferences.make_pairs`.

    Raises:
        ValueError: If no pair is left.
    """
    options = (pairing or PairingConfig()).pairing_options()
    pairs, counts = make_pairs(groups, **options, source=source)
    train, test = split_by_prompt(pairs, test_size, seed)
    held_out = {pair.prompt for pair in test}
    write_pairs(folder / "train.jsonl", train)
    if test:
        write_pairs(folder / "test.jsonl", test)
    write_rows(
        folder / "groups.jsonl",
        (
            group.row() | {"split": "test" if group.prompt in held_out else "train"}
            for group in groups
            if len(group.completions) > 1
        ),
    )
    write_text(folder / CARD, _card(folder, counts, provenance, len(train), len(test), task))
    return counts


def _card(
    folder: Path,
    counts: Counter[str],
    provenance: Mapping[str, object],
    train: int,
    test: int,
    task: str,
) -> str:
    splits = {"train": train, "test": test} if test else {"train": train}
    sizes = ", ".join(f"{count:,} in {split}" for split, count in splits.items())
    # load_dataset caches a folder under its path and its configs, whatever its files contain:
    # without this hash it would return the rows of an earlier folder of the same name.
    description = f"sha256 {_hash_of_files(folder, ['groups', *splits])}"
    files = [{"split": split, "path": f"{split}.jsonl"} for split in splits]
    body = f"""
Preference pairs ({sizes}; no prompt is in both) and the scored groups from which they were made.
The terms of the models and texts named below apply to it.

- `pairs` (default): `prompt`, `chosen`, `rejected`, their scores, and whether each was truncated
  (`chosen_truncated`, `rejected_truncated`).
- `groups`: `prompt`, `completions`, `scores`, `truncated`, and the `split` of the prompt.
- Sampled texts also have their tokens (`chosen_token_ids`, `rejected_token_ids`, `token_ids`),
  since tokenising a text again may give other tokens.

## Provenance

{markdown_table({name.replace("_", " "): value for name, value in provenance.items()})}

## Counts

`candidates` are the pairs of ranks that the rule names. The pairs that were made and those that
were dropped add up to them.

{markdown_table({name.replace("_", " "): f"{count:,}" for name, count in counts.items()})}
"""
    return dataset_card(
        folder.name,
        body,
        task_categories=[task],
        tags=["preference", "dpo"],
        configs=[
            {
                "config_name": "pairs",
                "default": True,
                "description": description,
                "data_files": files,
            },
            {"config_name": "groups", "description": description, "data_files": "groups.jsonl"},
        ],
    )


def _hash_of_files(folder: Path, names: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for name in names:
        digest.update((folder / f"{name}.jsonl").read_bytes())
    return digest.hexdigest()
