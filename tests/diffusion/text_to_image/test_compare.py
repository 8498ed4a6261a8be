"""Win rates and their intervals, and the sheets that show pairs."""

from pathlib import Path

import pytest
from PIL import Image
from scipy.optimize import brentq

from fdpo.diffusion.text_to_image.compare import (
    Z,
    draw_sheet,
    table,
    wilson,
    win_rate,
    win_rates,
    write_page,
)


@pytest.mark.parametrize(("wins", "n"), [(0, 10), (7, 10), (10, 10), (250, 500)])
def test_wilsons_interval_is_where_the_share_lies_z_standard_errors_away(wins: int, n: int) -> None:
    share = wins / n
    low, high = wilson(share, n)
    gap = lambda p: (share - p) ** 2 - Z**2 * p * (1 - p) / n  # noqa: E731
    assert low == pytest.approx(brentq(gap, 0, share - 1e-6) if wins else 0, abs=1e-9)
    assert high == pytest.approx(brentq(gap, share + 1e-6, 1) if wins < n else 1, abs=1e-9)


def test_ties_count_half_and_prompts_make_the_interval() -> None:
    found = win_rate([1, 2, 3, 4], [0, 2, 4, 1], prompts=2)
    assert found["win_rate"] == 2.5 / 4 and found["mean"] == 2.5 and found["base_mean"] == 7 / 4
    assert (found["win_rate_low"], found["win_rate_high"]) == wilson(2.5 / 4, 2)


def test_scorers_see_the_pictures_of_both(tmp_path: Path) -> None:
    scorers = {"length": lambda prompts, paths: [float(len(path)) for path in paths]}
    figures, scores = win_rates(scorers, ["a", "b"], ["x", "xxxx"], ["xx", "xx"])
    assert scores == {"length": [(1, 2), (4, 2)]} and figures["length_win_rate"] == 0.5
    assert "0.500 [" in table(["length"], figures)
    write_page(tmp_path / "a.html", ["<a>", "b"], ["l0", "l1"], ["r0", "r1"], scores, "top")
    page = (tmp_path / "a.html").read_text()
    assert "&lt;a&gt;" in page and page.index("l0") < page.index("length 2") < page.index("r0")
    red, blue = (Image.new("RGB", (4, 4), colour) for colour in ("red", "blue"))
    draw_sheet(tmp_path / "a.png", ["a", "ä 猫"], [red, red], [blue, blue], width=32)
    sheet = Image.open(tmp_path / "a.png")
    assert sheet.getpixel((20, 40)) == (255, 0, 0) and sheet.getpixel((60, 80)) == (0, 0, 255)
