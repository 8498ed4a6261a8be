"""Divergences: the mathematics, the members and their registry."""

from fdpo.divergences.base import Divergence, Mixture, parameters
from fdpo.divergences.from_generator import Generated, divergence_from_generator
from fdpo.divergences.members import (
    DIVERGENCES,
    JS,
    NO_LINK,
    Alpha,
    Chi2KL,
    ForwardKL,
    Jeffreys,
    NeymanChi2,
    PearsonChi2,
    ReverseKL,
    SkewJS,
    SquaredHellinger,
    alpha_from_trl,
    alpha_to_trl,
    get_divergence,
)
from fdpo.divergences.tails import TailedLink, tailed

__all__ = [
    "DIVERGENCES",
    "JS",
    "NO_LINK",
    "Alpha",
    "Chi2KL",
    "Divergence",
    "ForwardKL",
    "Generated",
    "Jeffreys",
    "Mixture",
    "NeymanChi2",
    "PearsonChi2",
    "ReverseKL",
    "SkewJS",
    "SquaredHellinger",
    "TailedLink",
    "alpha_from_trl",
    "alpha_to_trl",
    "divergence_from_generator",
    "get_divergence",
    "parameters",
    "tailed",
]
