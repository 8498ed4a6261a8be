"""The warning about log-ratios that are too small to tell divergences apart."""

import pytest

from fdpo import get_divergence
from fdpo.estimators.linearity import bend, linearity_warning


def test_small_log_ratios_are_warned_of() -> None:
    js = get_divergence("js")
    assert bend(js, [1e-4, 0.0]) == pytest.approx(1e-4 / 4, rel=1e-3)  # g = ℓ/2 − ℓ²/8 + …
    small, large = ({"q05": -size, "q95": size} for size in (0.01, 1.0))
    warning = linearity_warning(js, small)
    assert warning and "log-ratios reach 0.01 nats" in warning and "--kappa" in warning
    assert linearity_warning(js, large) is None and linearity_warning(js, {}) is None
    assert linearity_warning(get_divergence("reverse_kl"), small) is None
