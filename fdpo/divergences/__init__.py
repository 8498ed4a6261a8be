r"""f-divergences as links between log-ratios and rewards.

With :math:`u = \pi_\theta / \pi_\text{ref}`, :math:`\ell = \log u` and a convex generator
:math:`f` with :math:`f(1) = 0`, the divergence of a policy from its reference is
:math:`D_f(\pi_\theta \| \pi_\text{ref}) = E_\text{ref}[f(u)]`. The policy that maximises
:math:`E_\pi[r] - \beta D_f` has :math:`r = \beta f'(u)` up to a constant, so preference
optimisation needs only the **link** of :math:`f` and the **slope** of the link,

.. math::
    g(\ell) = f'(e^\ell) - f'(1), \qquad w(\ell) = g'(\ell) = e^\ell f''(e^\ell) \geq 0.

A divergence is **exact** if :math:`f'(0^+) = -\infty`. Then every optimum is positive everywhere
and f-DPO recovers it; otherwise only where the optimum happens to be positive. The **curvature**
is :math:`f''(1) = w(0)`.

:mod:`~fdpo.divergences.base` holds the interface, :mod:`~fdpo.divergences.members` the divergences
and their registry, :mod:`~fdpo.divergences.from_generator` divergences of any :math:`f` by
automatic differentiation, :mod:`~fdpo.divergences.tails` links with straight tails.

References:
    | Beyond Reverse KL: Generalizing Direct Preference Optimization with Diverse Divergence
      Constraints (Wang et al., 2024), https://arxiv.org/abs/2309.16240
    | Correcting the Mythos of KL-Regularization: Direct Alignment without Overoptimization via
      Chi-Squared Preference Optimization (Huang et al., 2025), https://arxiv.org/abs/2407.13399
"""

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
