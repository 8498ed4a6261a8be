"""Loss names: registered losses, mixtures, plug-ins, and wrong names."""

import math
from pathlib import Path

import pytest
import torch

from fdpo import LOSSES, PREFERENCES, Divergence, get_divergence, resolve_loss
from fdpo.losses.names import loss_parameters


def test_names() -> None:
    js, reverse_kl = get_divergence("js"), get_divergence("reverse_kl")
    assert resolve_loss("sigmoid") == (reverse_kl, "logistic")
    assert resolve_loss("hinge") == (reverse_kl, "hinge")
    assert resolve_loss("ipo") == (reverse_kl, "squared")
    assert resolve_loss("jsd") == (js, "logistic")
    assert resolve_loss("fkl") == (get_divergence("forward_kl"), "logistic")
    assert resolve_loss("alpha", alpha=0.3) == (get_divergence("alpha", alpha=0.3), "logistic")
    assert resolve_loss("skew_js", t=0.3) == (get_divergence("skew_js", t=0.3), "logistic")
    assert resolve_loss("sigmoid", alpha=None) == (reverse_kl, "logistic")


@pytest.mark.parametrize("name", LOSSES)
def test_every_name_gives_a_divergence_and_a_preference_loss(name: str) -> None:
    divergence, preference = resolve_loss(name)
    assert isinstance(divergence, Divergence) and preference in PREFERENCES


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_takes_its_parameters_and_no_others(name: str) -> None:
    known = loss_parameters(name)
    assert ("alpha" in known) == (name == "alpha") and ("t" in known) == (name == "skew_js")
    for parameter in ("alpha", "t"):
        if parameter in known:
            resolve_loss(name, **{parameter: 0.3})
        else:
            with pytest.raises(ValueError, match=f"takes no parameter '{parameter}'"):
                resolve_loss(name, **{parameter: 0.3})


def test_mixtures_by_name() -> None:
    js, kl = get_divergence("js"), get_divergence("reverse_kl")
    skew, alpha = get_divergence("skew_js", t=0.2), get_divergence("alpha", alpha=-0.5)
    for text, expected in {
        "0.7*js+0.3*reverse_kl": 0.7 * js + 0.3 * kl,
        "jsd + sigmoid": js + kl,
        "2 * (js + 1e-1*skew_js(t=0.2))": 2 * (js + 0.1 * skew),
        "skew_js(0.2) + alpha(-0.5)": skew + alpha,
        "alpha(alpha=-0.5)": alpha,
    }.items():
        assert resolve_loss(text) == (expected, "logistic")


@pytest.mark.parametrize(
    ("name", "values", "failure"),
    [
        ("nonsense", {}, "unknown loss 'nonsense'; choose from sigmoid, .*hinge, ipo.*a mixture"),
        ("dpo", {}, r"unknown loss 'dpo' \(did you mean sigmoid or reverse_kl\?\); choose from"),
        ("kl", {}, r"did you mean reverse_kl or forward_kl\?"),
        ("js_divergence", {}, r"did you mean js\?"),
        ("jds", {}, r"did you mean js or jsd\?"),
        ("", {}, "cannot read loss ''"),
        ("tv", {}, "its link is a step"),
        ("sigmoid_norm", {}, "divides log-ratios by length"),
        ("jsd", {"alpha": 0.5}, "js takes no parameter 'alpha'"),
        ("alpha", {"alpha": math.inf}, "alpha must be a finite number"),
        ("js+alpha", {"alpha": 0.5}, "takes no parameters beside it, got alpha"),
        ("0.7*js+", {}, "cannot read loss .*give one of sigmoid"),
        ("0.7*nonsense+js", {}, "unknown loss 'nonsense'"),
        ("0.7*hinge+js", {}, "hinge is no divergence, but a preference loss"),
        ("js-alpha", {}, "js - alpha is no divergence"),
        ("js(1)", {}, r"js\(1\) is no divergence"),
        ("js*js", {}, "js is no number"),
        ("-1*js", {}, "the weight of js must be finite and above 0, got -1"),
        ("alpha(x)", {}, "x is no number"),
        ("alpha(t=0.5)", {}, "alpha takes no parameter 't'"),
        ("no.such:thing", {}, "loss no.such:thing: cannot import 'no.such'"),
        ("math:nothing", {}, "loss math:nothing: math has no 'nothing'"),
        ("math:pi", {}, "neither a Divergence nor a function f"),
        ("math:exp", {}, "f fails on a float64 tensor"),
    ],
)
def test_wrong_names(name: str, values: dict, failure: str) -> None:
    with pytest.raises(ValueError, match=failure):
        resolve_loss(name, **values)


def test_plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_divergences.py").write_text(
        "import fdpo\n"
        "half = 0.5 * fdpo.get_divergence('js')\n"
        "def neyman(u):\n"
        "    return (1 - u) ** 2 / u\n"
        "def concave(u):\n"
        "    return u.log()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert resolve_loss("my_divergences:half")[0] == 0.5 * get_divergence("js")
    neyman, preference = resolve_loss("my_divergences:neyman")
    log_ratio = torch.linspace(-2, 2, 9, dtype=torch.float64)
    torch.testing.assert_close(
        neyman.link(log_ratio), get_divergence("neyman_chi2").link(log_ratio)
    )
    assert (str(neyman), neyman.exact, preference) == ("neyman", True, "logistic")
    with pytest.raises(ValueError, match="concave: f is not convex"):
        resolve_loss("my_divergences:concave")


def test_plugin_of_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "divergences_here.py").write_text("def f(u):\n    return -u.log()\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [path for path in __import__("sys").path if path])
    assert resolve_loss("divergences_here:f")[0].exact


def test_names_of_losses_are_names_of_divergences() -> None:
    for name, (divergence, preference) in LOSSES.items():
        if preference == "logistic":
            assert get_divergence(name) == get_divergence(divergence)
