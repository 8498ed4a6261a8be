"""Sheets and pages of images side by side."""

from pathlib import Path

from PIL import Image

from fdpo.diffusion.text_to_image.sheets import write_page, write_sheet


def test_a_page_shows_images_and_scores_in_columns(tmp_path: Path) -> None:
    scores = {"length": [(1.0, 2.0), (4.0, 2.0)]}
    write_page(tmp_path / "a.html", ["<a>", "b"], ["l0", "l1"], ["r0", "r1"], scores, "top")
    page = (tmp_path / "a.html").read_text()
    assert "&lt;a&gt;" in page and page.index("l0") < page.index("length 2") < page.index("r0")


def test_a_sheet_has_a_row_per_pair(tmp_path: Path) -> None:
    red, blue = (Image.new("RGB", (4, 4), colour) for colour in ("red", "blue"))
    write_sheet(tmp_path / "a.png", ["a", "ä 猫"], [red, red], [blue, blue], width=32)
    sheet = Image.open(tmp_path / "a.png")
    assert sheet.getpixel((20, 40)) == (255, 0, 0) and sheet.getpixel((60, 80)) == (0, 0, 255)
