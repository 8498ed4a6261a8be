"""Folders of preference data: pairs to train on and to test with, the scored groups, a card."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from fdpo import runs
from fdpo.preferences.pairs import Group, make_pairs, split_by_prompt
from fdpo.preferences.schema import write_pairs
from fdpo.runs.rows import write_rows


def write_dataset(
    folder: Path,
    groups: Sequence[Group],
    *,
    facts: Mapping[str, object],
    rule: str = "top_bottom",
    k: int = 3,
    k_top: int = 4,
    min_gap: float = 0.0,
    test_size: float = 0.1,
    seed: int = 0,
    source: str = "the groups",
    task: str = "text-generation",
) -> Counter[str]:
    """Makes the pairs of groups and writes both as a folder that `datasets.load_dataset` loads.

    ``train.jsonl`` and ``test.jsonl`` hold the pairs, split by prompt; ``groups.jsonl`` the groups,
    each with its ``split``; ``README.md`` the card, with ``facts`` on how it was made. Returns the
    counts of `fdpo.preferences.make_pairs`. ``task`` is what the hub calls the data's use.
    """
    pairs, counts = make_pairs(groups, rule, k, k_top, min_gap, source)
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
    runs.write_text(folder / "README.md", _card(folder, counts, facts, len(train), len(test), task))
    return counts


def _card(
    folder: Path,
    counts: Counter[str],
    facts: Mapping[str, object],
    train: int,
    test: int,
    task: str,
) -> str:
    splits = [("train", train), *([("test", test)] if test else [])]
    files = "".join(f"  - split: {name}\n    path: {name}.jsonl\n" for name, _ in splits)
    sizes = ", ".join(f"{count:,} in {name}" for name, count in splits)
    made = "".join(f"| {name.replace('_', ' ')} | {value} |\n" for name, value in facts.items())
    counted = "".join(f"| {name.replace('_', ' ')} | {n:,} |\n" for name, n in counts.items())
    # load_dataset caches a folder under its path and the configs below, not under its files'
    # contents: without their fingerprint it would go on to give what an earlier folder held.
    fingerprint = hashlib.sha256((folder / "groups.jsonl").read_bytes())
    for name, _ in splits:
        fingerprint.update((folder / f"{name}.jsonl").read_bytes())
    return f"""---
task_categories:
- {task}
tags:
- preference
- dpo
configs:
- config_name: pairs
  default: true
  description: sha256 {fingerprint.hexdigest()}
  data_files:
{files}- config_name: groups
  description: sha256 {fingerprint.hexdigest()}
  data_files: groups.jsonl
---

# {folder.name}

Preference pairs ({sizes}; no prompt is in both) and the scored groups they were made of.
The terms of the models and texts named below hold for it.

- `pairs` (default): `prompt`, `chosen`, `rejected`, their scores, and whether each was cut before
  its end (`chosen_truncated`, `rejected_truncated`).
- `groups`: `prompt`, `completions`, `scores`, `truncated`, and the `split` its pairs are in.

## How it was made

| | |
| --- | --- |
{made}
## What was made and dropped

`candidates` are the pairs of ranks that the rule names; those made and dropped add up to them.

| | |
| --- | --- |
{counted}"""
