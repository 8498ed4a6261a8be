"""Plots of the links, a table of all divergences, and the colours of methods in every plot.

``python -m fdpo.plotting --output docs/links.png`` plots links and slopes;
``python -m fdpo.plotting --table`` prints a table of all divergences.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch

from fdpo import runs
from fdpo.divergences.base import Divergence
from fdpo.divergences.members import DIVERGENCES, get_divergence
from fdpo.divergences.tails import tailed
from fdpo.losses.names import resolve_loss

#: A colour for each divergence, from the palettes of Okabe and Ito and of Tol (muted). With the
#: labels at the lines, people with any form of colour vision can tell them apart.
COLOURS: dict[str, str] = {
    "reverse_kl": "#000000",
    "js": "#0072B2",
    "skew_js": "#56B4E9",
    "alpha": "#009E73",
    "forward_kl": "#E69F00",
    "jeffreys": "#D55E00",
    "chi2_kl": "#CC79A7",
    "squared_hellinger": "#999933",
    "neyman_chi2": "#882255",
    "pearson_chi2": "#332288",
}
#: The colour of mixtures and plug-ins.
OTHER = "#777777"

#: The divergences in the plot of the links: label -> (name, parameters).
SHOWN: dict[str, tuple[str, dict[str, float]]] = {
    "reverse KL (DPO)": ("reverse_kl", {}),
    "JS": ("js", {}),
    "α = 0.5": ("alpha", {"alpha": 0.5}),
    "forward KL (α = 1)": ("forward_kl", {}),
    "Jeffreys": ("jeffreys", {}),
    "χ² + KL (χPO)": ("chi2_kl", {}),
}

#: The label of a divergence, if it is not its name.
LABELS: dict[str, str] = {
    "reverse_kl": "reverse KL",
    "js": "JS",
    "forward_kl": "forward KL",
    "jeffreys": "Jeffreys",
    "chi2_kl": "χ² + KL",
}
#: The line style of a preference loss, and its addition to the label.
PREFERENCE_STYLES: dict[str, tuple[str, str]] = {
    "logistic": ("-", ""),
    "hinge": ("--", ", hinge"),
    "squared": (":", ", squared (IPO)"),
}
#: The marker of a value of α.
MARKERS = {0.3: "v", 0.5: "s", 0.7: "^"}


def method_label(loss: str, alpha: float | None = None) -> str:
    """Returns the label of a method in a plot.

    Example:
        >>> method_label("alpha", 0.3), method_label("hinge")
        ('α = 0.3', 'reverse KL, hinge')
    """
    divergence, preference = resolve_loss(loss, alpha)
    name = f"α = {alpha:g}" if alpha is not None else LABELS.get(divergence.name, divergence.name)
    return name + PREFERENCE_STYLES.get(preference, ("", f", {preference}"))[1]


def method_name(loss: str, alpha: float | None = None) -> str:
    """Returns the name of a method: the loss, and after a space its alpha, if it has one.

    Example:
        >>> method_name("jsd"), method_name("alpha", 0.3)
        ('jsd', 'alpha 0.3')
    """
    return loss if alpha is None else f"{loss} {alpha:g}"


def parse_method(method: str) -> tuple[str, float | None]:
    """Splits the name of a method into the loss and its alpha; inverts :func:`method_name`.

    Example:
        >>> parse_method("alpha 0.3")
        ('alpha', 0.3)
    """
    loss, _, alpha = method.rpartition(" ")
    try:
        return loss, float(alpha)
    except ValueError:  # no alpha; the text of a mixture may have spaces
        return method, None


def style(method: str) -> dict[str, Any]:
    """Returns the colour, line, marker and label of a method, the same in every plot.

    Arguments:
        method: The name of the method (see :func:`method_name`).

    Returns:
        Keyword arguments of matplotlib's ``plot``.
    """
    loss, alpha = parse_method(method)
    divergence, preference = resolve_loss(loss, alpha)
    return {
        "color": colour(divergence),
        "linestyle": PREFERENCE_STYLES.get(preference, ("-.", ""))[0],
        "marker": "o" if alpha is None else MARKERS.get(alpha, "D"),
        "markersize": 5,
        "label": method_label(loss, alpha),
    }


def colour(divergence: Divergence) -> str:
    """Returns the colour of a divergence; mixtures and plug-ins are grey."""
    return COLOURS.get(divergence.name, OTHER)


def plot_links(path: str | Path) -> None:
    """Plots the links and the slopes of the main divergences side by side.

    Arguments:
        path: The file of the plot; its suffix is the format.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 5), layout="constrained")
    left, right = figure.subplots(1, 2)
    log_ratio = torch.linspace(-4, 4, 401, dtype=torch.float64)
    for label, (name, parameters) in SHOWN.items():
        divergence = get_divergence(name, **parameters)
        line: dict[str, Any] = {"color": colour(divergence), "linewidth": 2.2, "label": label}
        left.plot(log_ratio, divergence.link(log_ratio), **line)
        right.plot(log_ratio, divergence.slope(log_ratio), **line)
    left.set(ylim=(-6, 6), ylabel=r"link  $g(\ell)$, in nats")
    left.set_title(r"Reward of a completion: $\beta \cdot g(\ell)$", loc="left")
    right.set(yscale="log", ylim=(0.01, 100), ylabel=r"slope  $w(\ell) = g'(\ell)$, no unit")
    right.set_title("Push on its log-probability: the slope", loc="left")
    right.set_yticks([0.01, 0.1, 1, 10, 100], ["0.01", "0.1", "1", "10", "100"])
    for panel in (left, right):
        _finish(panel)
    figure.legend(
        *left.get_legend_handles_labels(), loc="outside lower center", ncols=6, frameon=False
    )
    with runs.replacing(path) as unfinished:
        figure.savefig(unfinished, dpi=150)


def tidy(axis: Any) -> None:
    """Draws a light grid behind the content of axes, and no frame."""
    axis.grid(color="#dddddd", linewidth=0.6)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)


def _finish(panel: Any) -> None:
    panel.set_xlim(-4, 4)
    panel.set_xlabel(
        "←  less likely than under the reference   |   more likely  →\n"
        r"log-ratio  $\ell = \log\,\pi/\pi_{\mathrm{ref}}$  of a completion, in nats"
    )
    panel.axvline(0, color=OTHER, linewidth=0.8, zorder=0)
    tidy(panel)


def table() -> str:
    """Returns a Markdown table of all divergences: slopes, curvature, bound, exactness, knees."""
    head = (
        "| divergence | w(−2) | w(0) = f″(1) | w(2) | w(−2)/w(2) | largest g | exact "
        "| straight beyond (τ = 10) |\n|---|---|---|---|---|---|---|---|"
    )
    return "\n".join([head, *(_row(kind()) for kind in DIVERGENCES.values())])


def _row(divergence: Divergence) -> str:
    left, middle, right = divergence.slope(torch.tensor([-2.0, 0.0, 2.0])).tolist()
    bound = divergence.link(torch.tensor(1e3)).item()
    knees = tailed(divergence, 10.0)
    ends = [f"ℓ < {knees.low:.1f}"] * (knees.low > -torch.inf)
    ends += [f"ℓ > {knees.high:.1f}"] * (knees.high < torch.inf)
    columns = [
        f"`{divergence}`",
        *(f"{value:.3g}" for value in (left, middle, right, left / right)),
        f"{bound:.3g}" if bound < 100 else "∞",
        "yes" if divergence.exact else "**no**",
        ", ".join(ends) or "nowhere",
    ]
    return f"| {' | '.join(columns)} |"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Links and slopes of the divergences.")
    parser.add_argument("--output", help="plot them into this file", metavar="PATH")
    parser.add_argument("--table", action="store_true", help="print a table of all divergences")
    options = parser.parse_args()
    if options.table:
        print(table())
    if options.output:
        plot_links(options.output)
    if not (options.table or options.output):
        parser.error("give --output PATH or --table")
