"""Pictures and the table of the divergences."""

from pathlib import Path

from fdpo import DIVERGENCES, get_divergence, plotting


def test_every_divergence_has_a_colour_of_its_own() -> None:
    assert plotting.COLOURS.keys() == DIVERGENCES.keys()
    assert len({*plotting.COLOURS.values(), plotting.OTHER}) == len(DIVERGENCES) + 1
    assert plotting.colour(get_divergence("alpha", alpha=0.3)) == plotting.COLOURS["alpha"]
    assert plotting.colour(2 * get_divergence("js")) == plotting.OTHER


def test_page_on_divergences_shows_the_table() -> None:
    page = Path(__file__).parents[1] / "docs" / "which-divergence.md"
    assert plotting.table() in page.read_text(encoding="utf-8")


def test_picture_is_written_whole(tmp_path: Path) -> None:
    plotting.plot_links(tmp_path / "new" / "links.svg")
    (picture,) = (tmp_path / "new").iterdir()
    text = picture.read_text(encoding="utf-8")
    assert picture.name == "links.svg" and text.rstrip().endswith("</svg>")
    for colour in ("reverse_kl", "js", "alpha", "forward_kl", "jeffreys", "chi2_kl"):
        assert plotting.COLOURS[colour].lower() in text.lower()
