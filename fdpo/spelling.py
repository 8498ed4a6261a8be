"""Suggestions for names that are spelt otherwise."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence


def did_you_mean(
    name: str,
    known: Iterable[str],
    others: Mapping[str, Sequence[str]] | None = None,
    prefix: str = "",
) -> str:
    """Returns `` (did you mean a or b?)``, or nothing if no known name is like the given one.

    Arguments:
        name: The unknown name.
        known: The known names.
        others: Words that other programs use -> the names for them here.
        prefix: Text before each name, as in ``--beta``.

    Example:
        >>> losses = ["sigmoid", "jsd"]
        >>> did_you_mean("jds", losses), did_you_mean("dpo", losses, {"dpo": ["sigmoid"]})
        (' (did you mean jsd?)', ' (did you mean sigmoid?)')
    """
    known = list(known)
    meant = [other for other in (others or {}).get(name, ()) if other in known]
    close = meant or difflib.get_close_matches(name, known)
    return f" (did you mean {' or '.join(prefix + one for one in close)}?)" if close else ""
