r"""Two text-to-image models beside each other: paired pictures, win rates, sheets to look at.

Both draw the same prompts from the same noise. A scorer's win rate is the share of pairs in which
the policy's picture scores higher, a tie counting half, with Wilson's 95 % interval over prompts:
with several pictures of a prompt :math:`n` is still the number of prompts, which can only make the
interval too wide.
"""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image, ImageDraw

from fdpo import runs
from fdpo.scorers import Scorer

Z = 1.959964  # of a 95 % interval


def wilson(share: float, n: int) -> tuple[float, float]:
    """Returns Wilson's 95 % interval of a share among n. (Wilson, 1927)"""
    centre = (share + Z * Z / (2 * n)) / (1 + Z * Z / n)
    half = Z / (1 + Z * Z / n) * math.sqrt(share * (1 - share) / n + Z * Z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def win_rate(policy: Sequence[float], reference: Sequence[float], prompts: int) -> dict[str, float]:
    """Compares the scores of paired pictures.

    Arguments:
        policy: Scores of the policy's pictures.
        reference: Scores of the reference's, in the same order.
        prompts: The number of prompts.

    Returns:
        ``win_rate`` with ``win_rate_low`` and ``win_rate_high``; the ``mean`` scores of the policy
        and, with ``base_``, of the reference.
    """
    wins = [(a > b) + 0.5 * (a == b) for a, b in zip(policy, reference, strict=True)]
    share = sum(wins) / len(wins)
    low, high = wilson(share, prompts)
    return {
        "win_rate": share,
        "win_rate_low": low,
        "win_rate_high": high,
        "mean": sum(policy) / len(policy),
        "base_mean": sum(reference) / len(reference),
    }


def win_rates(
    scorers: Mapping[str, Scorer],
    prompts: Sequence[str],
    policy: Sequence[str],
    reference: Sequence[str],
) -> tuple[dict[str, float], dict[str, list[tuple[float, float]]]]:
    """Scores paired picture files with every scorer.

    Returns:
        The figures of :func:`win_rate` with the scorer's name in front, and for each scorer the
        scores of (policy, reference).
    """
    figures: dict[str, float] = {}
    scores: dict[str, list[tuple[float, float]]] = {}
    for name, scorer in scorers.items():
        mine, theirs = scorer(prompts, policy), scorer(prompts, reference)
        found = win_rate(mine, theirs, len(set(prompts)))
        figures |= {f"{name}_{key}": value for key, value in found.items()}
        scores[name] = list(zip(mine, theirs, strict=True))
    return figures, scores


def table(names: Sequence[str], figures: Mapping[str, float]) -> str:
    """Shows the win rates, a line for each scorer."""
    lines = [f"{'scorer':24} {'win rate [95 %]':>24} {'policy':>10} {'reference':>10}"]
    for name in names:
        rate, low, high, mean, base = (
            figures[f"{name}_{key}"]
            for key in ("win_rate", "win_rate_low", "win_rate_high", "mean", "base_mean")
        )
        shown = f"{rate:.3f} [{low:.3f}, {high:.3f}]"
        lines.append(f"{name:24} {shown:>24} {mean:>10.4f} {base:>10.4f}")
    return "\n".join(lines)


def draw_sheet(
    path: str | Path,
    prompts: Sequence[str],
    left: Sequence[Image.Image],
    right: Sequence[Image.Image],
    titles: tuple[str, str] = ("reference", "policy"),
    width: int = 256,
) -> None:
    """Draws pairs of pictures as a PNG file, a row for each, under their prompts.

    Arguments:
        path: The file.
        prompts: The prompts.
        left: The pictures of the left column.
        right: Those of the right.
        titles: What the columns are called.
        width: The width of a picture on the sheet, pixels.
    """
    line, gap = 16, 4
    sheet = Image.new("RGB", (2 * width + 3 * gap, line + len(prompts) * (width + line)), "white")
    pen = ImageDraw.Draw(sheet)
    for column, title in enumerate(titles):
        pen.text((gap + column * (width + gap), 1), title, fill="black")
    for row, (prompt, *pictures) in enumerate(zip(prompts, left, right, strict=True)):
        top = line + row * (width + line)
        pen.text((gap, top), prompt.encode("latin-1", "replace").decode("latin-1"), fill="black")
        for column, picture in enumerate(pictures):
            place = (gap + column * (width + gap), top + line)
            sheet.paste(picture.resize((width, width)), place)
    with runs.replacing(path) as beside:
        sheet.save(beside)


def write_page(
    path: str | Path,
    prompts: Sequence[str],
    left: Sequence[str],
    right: Sequence[str],
    scores: Mapping[str, Sequence[tuple[float, float]]],
    summary: str,
    titles: tuple[str, str] = ("reference", "policy"),
) -> None:
    """Writes pairs of pictures and their scores as a page of HTML.

    Arguments:
        path: The file.
        prompts: The prompts.
        left: Paths of the pictures of the left column, relative to the page.
        right: Those of the right.
        scores: By scorer, the scores of each pair's (right, left) picture.
        summary: Text to put above the pictures.
        titles: What the columns are called.
    """
    rows = []
    for i, (prompt, *paths) in enumerate(zip(prompts, left, right, strict=True)):
        cells = []
        for column, source in enumerate(paths):
            notes = ", ".join(f"{name} {both[i][1 - column]:.4g}" for name, both in scores.items())
            cells.append(
                f'<td><img src="{html.escape(source)}" loading="lazy"><br>{html.escape(notes)}</td>'
            )
        rows.append(f"<tr><th colspan=2>{html.escape(prompt)}</th></tr><tr>{''.join(cells)}</tr>")
    heads = "".join(f"<th>{html.escape(title)}</th>" for title in titles)
    page = f"""<!doctype html>
<meta charset="utf-8">
<title>{" and ".join(map(html.escape, titles))}</title>
<style>body {{font-family: sans-serif}} img {{max-width: 40vw}} th {{text-align: left}}</style>
<pre>{html.escape(summary)}</pre>
<table><tr>{heads}</tr>
{chr(10).join(rows)}
</table>
"""
    runs.write_text(path, page)
