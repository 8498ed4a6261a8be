"""Estimates with standard errors: divergences from samples, diversity, calibration, optima.

The estimators of divergences are here; :mod:`~fdpo.estimators.diversity`,
:mod:`~fdpo.estimators.calibration` and :mod:`~fdpo.estimators.optimum` are separate modules.
"""

from fdpo.estimators.divergences import (
    REACH,
    divergence,
    forward_kl,
    jensen_shannon,
    mean_weight,
    predictive_entropy,
    rao_blackwell_kl,
    reverse_kl,
)
from fdpo.estimators.estimate import LARGEST_SHARE, LEAST_EFFECTIVE, Estimate, flat, mean

__all__ = [
    "LARGEST_SHARE",
    "LEAST_EFFECTIVE",
    "REACH",
    "Estimate",
    "divergence",
    "flat",
    "forward_kl",
    "jensen_shannon",
    "mean",
    "mean_weight",
    "predictive_entropy",
    "rao_blackwell_kl",
    "reverse_kl",
]
