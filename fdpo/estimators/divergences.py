r"""Divergences from samples of two models, each with its standard error.

Log-ratios are :math:`\ell = \log u`, :math:`u = \pi/\pi_\text{ref}`, of whole completions that were
sampled from :math:`\pi` or :math:`\pi_\text{ref}` itself (temperature 1, no filter). Since
:math:`E_\text{ref}[u - 1] = 0`, the divergence

.. math::
    D_f = E_\text{ref}[F(u)], \qquad F(u) = f(u) - c\,(u - 1)

does not depend on the control :math:`c`. It can be estimated from samples of

===============  ====================================================================
the reference    :math:`E_\text{ref}[F(u)]`
the policy       :math:`E_\pi[F(u)/u]`
both             :math:`E_\pi[F(u)/(1+u)] + E_\text{ref}[F(u)/(1+u)]`
===============  ====================================================================

The last row treats the samples of both models as one sample of their mixture. No sample weighs more
than twice what it would without weights, and the variance is near the least of all divisions of
:math:`f` between the two sides: the reverse KL uses the samples of the policy wherever :math:`u` is
large, the forward KL those of the reference wherever it is small. The control is :math:`c = f'(1)`.

From the samples of one model, the variance depends on :math:`c`. Far from 1, :math:`F` of the
reference grows like :math:`(f'(\infty) - c)\,u`, where samples are few and heavy;
:math:`c = f'(\infty)` removes that growth. Near :math:`u = 1`, however, it leaves a term
:math:`(f'(1) - c)(u - 1)` of mean 0, which :math:`c = f'(1)` does not have. The estimator uses
:math:`c = f'(\infty)` where that term is small, :math:`f'(\infty) - f'(1) \leq 2f''(1)`: for the
forward KL (mean :math:`-\ell`) and for :math:`\alpha \geq 1/2` (mean
:math:`(e^{(1-\alpha)\ell} - 1)/(\alpha(\alpha-1))`). For samples of the policy the same holds with
:math:`f(0) + f'(1)` in place of :math:`f'(\infty) - f'(1)`: for the reverse KL (mean :math:`\ell`)
and for :math:`\alpha \leq 1/2`.

Samples of one prompt are not independent: values have shape :math:`(P, S)`, prompts by samples, and
standard errors are those of the mean over prompts.

References:
    | Optimally Combining Sampling Techniques for Monte Carlo Rendering (Veach and Guibas, 1995),
      the balance heuristic, https://doi.org/10.1145/218380.218498
    | Safe and Effective Importance Sampling (Owen and Zhou, 2000),
      https://doi.org/10.1080/01621459.2000.10473909
    | Better Estimation of the KL Divergence Between Language Models (Amini et al., 2025), the
      Rao-Blackwell estimator, https://arxiv.org/abs/2504.10637
"""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor

from fdpo.divergences.base import Divergence
from fdpo.divergences.members import JS, ForwardKL, ReverseKL
from fdpo.divergences.numerics import precise
from fdpo.estimators.estimate import Estimate, heavy_tail_warning, mean

#: :math:`|\ell|` beyond which an integrand continues as a straight line: e^{2ℓ} is finite up to it.
REACH = 300.0


def divergence(
    d: Divergence,
    policy_log_ratios: Tensor | None = None,
    reference_log_ratios: Tensor | None = None,
) -> Estimate:
    r"""Estimates any :math:`D_f(\pi \| \pi_\text{ref})`, in nats, in float64.

    Samples of both models give the least variance for every divergence. Samples of one model give
    an unbiased estimate too: take those of the reference for the forward KL, :math:`\alpha > 1/2`
    and other divergences that are steeper below :math:`u = 1`, those of the policy for the reverse
    KL and :math:`\alpha < 1/2`. The docstring of the module states the estimators.

    The estimate has a warning if a few samples make up most of it, or if the samples of one model
    miss most of the other's mass (see :func:`mean_weight`).

    Arguments:
        d: Any divergence.
        policy_log_ratios: :math:`\ell` of samples of the policy, with shape :math:`(P, S)`.
        reference_log_ratios: :math:`\ell` of samples of the reference for the same prompts, with
            shape :math:`(P, S')`.

    Raises:
        ValueError: If both are missing, a shape is wrong or a log-ratio is not finite.

    Example:
        >>> import fdpo
        >>> policy = torch.tensor([[0.5, 0.1], [0.3, -0.2]])  # two prompts, two samples of each
        >>> reference = torch.tensor([[-0.4, 0.2], [-0.1, -0.3]])
        >>> estimate = divergence(fdpo.get_divergence("js"), policy, reference)
        >>> print(f"{estimate.value:.3f} ± {estimate.error:.3f} nats")
        0.021 ± 0.007 nats
    """
    pairs = (("policy", policy_log_ratios), ("reference", reference_log_ratios))
    sides = {name: _checked(values, name) for name, values in pairs if values is not None}
    if not sides:
        raise ValueError("log-ratios of samples of the policy, the reference or both are needed")
    if len({len(values) for values in sides.values()}) > 1:
        raise ValueError(
            "policy and reference log-ratios must be of the same prompts, got "
            + " and ".join(str(len(values)) for values in sides.values())
        )
    control, weighted = _control(d, *sides)
    parts = [_integrand(d, values, control, sides.keys()) for values in sides.values()]
    estimate = mean(torch.stack([part.mean(1) for part in parts]).sum(0))
    contributions = torch.cat([part.abs().flatten() for part in parts])
    # 1e-4 nats for each, so that the rounding of equal models is no heavy tail
    warning = heavy_tail_warning(contributions + 1e-4, "contributions")
    if weighted and not warning:
        [(side, values)] = sides.items()
        warning = mean_weight(values if side == "reference" else -values).warning
    return estimate._replace(warning=warning)


def reverse_kl(policy_log_ratios: Tensor) -> Estimate:
    r"""Estimates :math:`KL(\pi \| \pi_\text{ref})`, in nats: the mean of :math:`\ell`.

    Arguments:
        policy_log_ratios: :math:`\ell` of samples of the policy, with shape :math:`(P, S)`.

    Example:
        >>> round(reverse_kl(torch.tensor([[1.0], [2.0]])).value, 6)
        1.5
    """
    return divergence(ReverseKL(), policy_log_ratios)


def forward_kl(reference_log_ratios: Tensor) -> Estimate:
    r"""Estimates :math:`KL(\pi_\text{ref} \| \pi)`, in nats: the mean of :math:`-\ell`.

    Arguments:
        reference_log_ratios: :math:`\ell` of samples of the reference, with shape :math:`(P, S)`.

    Example:
        >>> round(forward_kl(torch.tensor([[-1.0], [-2.0]])).value, 6)
        1.5
    """
    return divergence(ForwardKL(), reference_log_ratios=reference_log_ratios)


def jensen_shannon(policy_log_ratios: Tensor, reference_log_ratios: Tensor) -> Estimate:
    r"""Estimates twice the Jensen-Shannon divergence, in nats: between 0 and :math:`2\log 2`.

    Arguments:
        policy_log_ratios: :math:`\ell` of samples of the policy, with shape :math:`(P, S)`.
        reference_log_ratios: :math:`\ell` of samples of the reference, for the same prompts, with
            shape :math:`(P, S')`.
    """
    return divergence(JS(), policy_log_ratios, reference_log_ratios)


def mean_weight(log_weights: Tensor) -> Estimate:
    r"""Estimates the mean of importance weights, which must be 1 within its error.

    :math:`E_\text{ref}[e^\ell] = E_\pi[e^{-\ell}] = 1`, but large weights are rare. If a few
    samples make up most of the sum, or if the mean is not 1, the samples of one model miss regions
    where the other has most of its mass, or they are not samples of that model.

    Arguments:
        log_weights: :math:`\ell` of samples of the reference, or :math:`-\ell` of samples of the
            policy, with shape :math:`(P, S)`.
    """
    values = _checked(log_weights, "weight")
    scale, scaled = values.max().exp().item(), (values - values.max()).exp()
    value, error, _ = mean(scaled)
    value, error = scale * value, scale * error
    warning = heavy_tail_warning(scaled, "weights")
    if not warning and abs(value - 1) > max(4 * error, 0.01):
        warning = (
            f"the weights average {value:.3g} ± {error:.1g}, not 1: the samples miss regions that "
            "matter"
        )
    return Estimate(value, error, warning)


def rao_blackwell_kl(
    policy_logits: Tensor, reference_logits: Tensor, mask: Tensor | None = None
) -> Tensor:
    r"""Computes the KL divergence of the next token, summed along each completion, in nats.

    .. math::
        \sum_t \sum_v \pi(v \mid y_{<t}) \log \frac{\pi(v \mid y_{<t})}{\pi_\text{ref}(v \mid
        y_{<t})}

    has the mean :math:`KL(\pi \| \pi_\text{ref})` over completions :math:`y` of the policy, as
    :math:`\ell` has, and a smaller variance. Pass the values of all batches to :func:`mean`.

    Arguments:
        policy_logits: Logits or log-probabilities of the policy along its own samples, with shape
            :math:`(*, T, V)`; those at a position predict the token at the same position.
        reference_logits: Those of the reference, with the same shape.
        mask: The positions of the completion, with shape :math:`(*, T)`; by default all.

    Returns:
        A value for each completion, with shape :math:`(*)`, in float32 or float64.

    Example:
        >>> policy = torch.tensor([[[0.0, 0.0]]])  # one completion of one token, a vocabulary of 2
        >>> rao_blackwell_kl(policy, torch.tensor([[[0.0, 2.0]]]))
        tensor([0.4338])
    """
    if policy_logits.shape != reference_logits.shape:
        raise ValueError(
            "both models' logits must have one shape, got "
            f"{tuple(policy_logits.shape)} and {tuple(reference_logits.shape)}"
        )
    policy = precise(policy_logits).log_softmax(-1)
    ratio = policy - precise(reference_logits).log_softmax(-1)
    kl = torch.where(policy == -torch.inf, 0, policy.exp() * ratio).sum(-1)
    return kl.sum(-1) if mask is None else torch.where(mask.bool(), kl, 0).sum(-1)


def predictive_entropy(logits: Tensor, mask: Tensor | None = None) -> Tensor:
    """Computes the entropy of the next token, averaged along each completion, in nats.

    Arguments:
        logits: Logits or log-probabilities, with shape :math:`(*, T, V)`.
        mask: The positions of the completion, with shape :math:`(*, T)`; by default all.

    Example:
        >>> predictive_entropy(torch.zeros(1, 5, 2))  # log 2
        tensor([0.6931])
    """
    entropy = torch.special.entr(precise(logits).softmax(-1)).sum(-1)
    if mask is None:
        return entropy.mean(-1)
    return torch.where(mask.bool(), entropy, 0).sum(-1) / mask.sum(-1)


def _checked(log_ratios: Tensor, side: str) -> Tensor:
    if log_ratios.ndim != 2 or not log_ratios.numel():
        shape = tuple(log_ratios.shape)
        raise ValueError(f"{side} log-ratios must have shape (prompts, samples), got {shape}")
    if not log_ratios.isfinite().all():
        wrong = log_ratios[~log_ratios.isfinite()]
        raise ValueError(f"{side} log-ratios must be finite, got {wrong[0].item()}")
    return log_ratios.detach().double()


def _control(d: Divergence, *sides: str) -> tuple[float, bool]:
    """Returns the control c, and whether the integrand still grows like the weights."""
    tangent = _slope_at_one(d)
    if len(sides) == 2:
        return tangent, False
    far = torch.full((1,), 700.0, dtype=torch.float64)  # stands for infinity
    if sides == ("reference",):
        rise = d.link(far).item()
        bounded_control = tangent + rise
    else:
        rise = d.f((-far).exp()).item() + tangent
        bounded_control = tangent - rise
    return (bounded_control, False) if rise <= 2 * d.curvature else (tangent, True)


def _slope_at_one(d: Divergence) -> float:
    """Returns f'(1), which the link leaves out."""
    with torch.enable_grad():
        one = torch.ones(1, dtype=torch.float64, requires_grad=True)
        return torch.autograd.grad(d.f(one).sum(), one)[0].item()


def _integrand(d: Divergence, log_ratio: Tensor, control: float, sides: Collection[str]) -> Tensor:
    """Returns F(u) over the density of the samples, in units of the reference's."""
    policy, reference = "policy" in sides, "reference" in sides
    inner = log_ratio.clamp(-REACH, REACH)
    ratio = inner.exp()
    density = policy * ratio + reference
    value = (d.f(ratio) - control * (ratio - 1)) / density
    # d/dℓ, with F'(u) = g + f'(1) - c
    steep = d.link(inner) + _slope_at_one(d) - control - policy * value
    beyond = log_ratio - inner
    return value + torch.where(beyond == 0, 0, ratio / density * steep * beyond)  # not ∞ · 0
