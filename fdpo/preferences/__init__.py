"""Preferences: prompts, completions, scored groups, pairs, and their files and data sets."""

from fdpo.preferences.dataset import write_dataset
from fdpo.preferences.generate import Completion, make_dataset
from fdpo.preferences.pairs import (
    RULES,
    SIDES,
    Group,
    Pair,
    PairingConfig,
    Side,
    Text,
    describe,
    get_prompt,
    make_pairs,
    rank_pairs,
    require_share,
    split_by_prompt,
    usable_pairs,
)
from fdpo.preferences.prompts import read_prompts
from fdpo.preferences.schema import (
    groups_from_rows,
    pairs_from_rows,
    preferences_from_rows,
    read_groups,
    read_pairs,
    row_kind,
    write_groups,
    write_pairs,
)

__all__ = [
    "RULES",
    "SIDES",
    "Completion",
    "Group",
    "Pair",
    "PairingConfig",
    "Side",
    "Text",
    "describe",
    "get_prompt",
    "groups_from_rows",
    "make_dataset",
    "make_pairs",
    "pairs_from_rows",
    "preferences_from_rows",
    "rank_pairs",
    "read_groups",
    "read_pairs",
    "read_prompts",
    "require_share",
    "row_kind",
    "split_by_prompt",
    "usable_pairs",
    "write_dataset",
    "write_groups",
    "write_pairs",
]
