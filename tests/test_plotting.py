"""Plots and the table of the divergences."""

from pathlib import Path

import pytest

from fdpo import DIVERGENCES, LOSSES, get_divergence, plotting


def test_every_divergence_has_its_own_colour() -> None:
    assert plotting.COLOURS.keys() == DIVERGENCES.keys()
    assert len({*plotting.COLOURS.values(), plotting.OTHER}) == len(DIVERGENCES) + 1
    assert plotting.colour(get_divergence("alpha", alpha=0.3)) == plotting.COLOURS["alpha"]
    assert plotting.colour(2 * get_divergence("js")) == plotting.OTHER


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_has_the_colour_of_its_divergence(loss: str) -> None:
    assert plotting.style(loss)["color"] == plotting.COLOURS[LOSSES[loss][0]]


@pytest.mark.parametrize(
    ("loss", "alpha", "name", "label"),
    [
        ("sigmoid", None, "sigmoid", "reverse KL"),
        ("hinge", None, "hinge", "reverse KL, hinge"),
        ("ipo", None, "ipo", "reverse KL, squared (IPO)"),
        ("jsd", None, "jsd", "JS"),
        ("alpha", 0.3, "alpha 0.3", "α = 0.3"),
        ("skew_js", None, "skew_js", "skew_js"),
        ("0.7*js + 0.3*fkl", None, "0.7*js + 0.3*fkl", "mixture"),
    ],
)
def test_methods_have_names_and_labels(
    loss: str, alpha: float | None, name: str, label: str
) -> None:
    assert plotting.method_name(loss, alpha) == name
    assert plotting.parse_method(name) == (loss, alpha)
    assert plotting.method_label(loss, alpha) == plotting.style(name)["label"] == label


def test_styles_tell_methods_apart() -> None:
    methods = "sigmoid,hinge,ipo,jsd,alpha 0.3,alpha 0.5,alpha 0.7,fkl,jeffreys,chi2_kl".split(",")
    styles = [plotting.style(method) for method in methods]
    assert len({(s["color"], s["linestyle"], s["marker"]) for s in styles}) == len(methods)
    assert len({s["label"] for s in styles}) == len(methods)


def test_page_on_divergences_shows_the_table() -> None:
    page = Path(__file__).parents[1] / "docs" / "which-divergence.md"
    assert plotting.table() in page.read_text(encoding="utf-8")


def test_plot_is_written_whole(tmp_path: Path) -> None:
    plotting.plot_links(tmp_path / "new" / "links.svg")
    (plot,) = (tmp_path / "new").iterdir()
    text = plot.read_text(encoding="utf-8")
    assert plot.name == "links.svg" and text.rstrip().endswith("</svg>")
    for colour in ("reverse_kl", "js", "alpha", "forward_kl", "jeffreys", "chi2_kl"):
        assert plotting.COLOURS[colour].lower() in text.lower()
