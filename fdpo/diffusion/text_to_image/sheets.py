"""Images of two models side by side: sheets (PNG) and pages (HTML)."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image, ImageDraw

from fdpo import runs
from fdpo.diffusion.images import write_image

LINE, GAP = 16, 4  # height of a line of text and space between images, pixels


def write_sheet(
    path: str | Path,
    prompts: Sequence[str],
    left: Sequence[Image.Image],
    right: Sequence[Image.Image],
    titles: tuple[str, str] = ("reference", "policy"),
    width: int = 256,
) -> None:
    """Writes pairs of images as a PNG file, one row per pair, under their prompts.

    Arguments:
        path: The file.
        prompts: The prompts.
        left: The images of the left column.
        right: The images of the right column.
        titles: The titles of the columns.
        width: The width of an image on the sheet, pixels.
    """
    size = 2 * width + 3 * GAP, LINE + len(prompts) * (width + LINE)
    sheet = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(sheet)
    for column, title in enumerate(titles):
        pen.text((GAP + column * (width + GAP), 1), title, fill="black")
    for row, (prompt, *images) in enumerate(zip(prompts, left, right, strict=True)):
        top = LINE + row * (width + LINE)
        pen.text((GAP, top), prompt.encode("latin-1", "replace").decode("latin-1"), fill="black")
        for column, image in enumerate(images):
            position = (GAP + column * (width + GAP), top + LINE)
            sheet.paste(image.resize((width, width)), position)
    write_image(path, sheet)


def write_page(
    path: str | Path,
    prompts: Sequence[str],
    left: Sequence[str],
    right: Sequence[str],
    scores: Mapping[str, Sequence[tuple[float, float]]],
    summary: str,
    titles: tuple[str, str] = ("reference", "policy"),
) -> None:
    """Writes pairs of images and their scores as an HTML page.

    Arguments:
        path: The file.
        prompts: The prompts.
        left: Paths of the images of the left column, relative to the page.
        right: Paths of the images of the right column.
        scores: By scorer, the scores of each pair's (right, left) image.
        summary: The text above the images.
        titles: The titles of the columns.
    """
    rows = []
    for i, (prompt, *paths) in enumerate(zip(prompts, left, right, strict=True)):
        columns = [
            _column(source, {name: pairs[i][1 - column] for name, pairs in scores.items()})
            for column, source in enumerate(paths)
        ]
        rows.append(f"<tr><th colspan=2>{html.escape(prompt)}</th></tr><tr>{''.join(columns)}</tr>")
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


def _column(source: str, scores: Mapping[str, float]) -> str:
    notes = ", ".join(f"{name} {score:.4g}" for name, score in scores.items())
    image = f'<img src="{html.escape(source)}" loading="lazy">'
    return f"<td>{image}<br>{html.escape(notes)}</td>"
