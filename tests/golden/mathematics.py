"""Cases of the functions of fdpo: divergences, losses and estimators on fixed numbers."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import fdpo
from fdpo import Divergence, estimators
from tests.golden.workplace import ROOT, OneThread, Workplace

CHOSEN = (0.0, 0.3, -0.7, 1.5, -4.0, 9.0, 30.0, -30.0, 110.0, -110.0, -0.02)
REJECTED = (0.0, -0.2, 0.9, 1.5, -6.5, -2.0, -30.0, 30.0, -110.0, 110.0, -90.0)
"""Log-ratios of the chosen and the rejected sides, nats."""
RATIOS = (0.0, 1e-12, 0.01, 0.5, 1.0, 1.7, 40.0, 1e8)
VALUES = (-1e9, -30.0, -1.2, -0.05, 0.0, 0.3, 0.69, 2.5, 30.0, 1e9)
OPTIONS: dict[str, dict[str, Any]] = {
    "label_smoothing": {"label_smoothing": 0.2},
    "match_curvature": {"match_curvature": True, "beta": 0.5},
    "no_tail": {"tail": None},
    "tail_2": {"tail": 2.0},
    "loser_gradient": {"loser_gradient": 0.2, "tail": 2.0},
}
NAMES = (
    "sigmoid", "hinge", "ipo", "jsd", "fkl", "alpha", "pearson_chi2", "0.7*js + 0.3*alpha(0.5)",
    "2*skew_js(t=0.2) + jsd + fkl", "torch:expm1", "tv", "nothing",
)  # fmt: skip
DTYPES = {"float64": torch.float64, "float32": torch.float32}


def generator(ratio: Tensor) -> Tensor:
    """The f of a divergence from a generator."""
    return ratio * ratio.log() + 1 / ratio - 1


def divergences() -> list[Divergence]:
    """Returns every divergence, some with several parameters, a mixture and a generated one."""
    plain = [fdpo.get_divergence(name) for name in fdpo.DIVERGENCES]
    alphas = [fdpo.get_divergence("alpha", alpha=alpha) for alpha in (0.3, 2.0, -0.5)]
    skewed = fdpo.get_divergence("skew_js", t=0.3)
    mixture = 0.7 * fdpo.get_divergence("js") + 0.3 * fdpo.get_divergence("alpha", alpha=0.5)
    generated = fdpo.divergence_from_generator(generator, name="mine")
    return [*plain, *alphas, skewed, mixture, generated]


def numbers(values: Tensor) -> Any:
    """Returns the values of a tensor, with as many digits as float32 has where it is that."""
    if values.dtype == torch.float32:
        return [float(f"{value:.9g}") for value in values.tolist()]
    return values.tolist()


def of_divergence(divergence: Divergence, dtype: torch.dtype) -> dict[str, Any]:
    """Evaluates the functions of a divergence."""
    ratios, values, log_ratios = (
        torch.tensor(one, dtype=dtype) for one in (RATIOS, VALUES, CHOSEN)
    )
    others = torch.tensor(REJECTED, dtype=dtype)
    return {
        "f": numbers(divergence.f(ratios)),
        "link": numbers(divergence.link(log_ratios)),
        "slope": numbers(divergence.slope(log_ratios)),
        "inverse_link": numbers(divergence.inverse_link(values)),
        "difference": numbers(divergence.difference(log_ratios, others)),
        "curvature": divergence.curvature,
        "exact": divergence.exact,
    }


def of_loss(divergence: Divergence, dtype: torch.dtype, **options: Any) -> dict[str, Any]:
    """Computes the losses of the pairs with their gradients, rewards and slopes."""
    chosen, rejected = (
        torch.tensor(one, dtype=dtype, requires_grad=True) for one in (CHOSEN, REJECTED)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of divergences that are not exact
        out = fdpo.fdpo_loss(chosen, rejected, divergence=divergence, **options)
    gradients = torch.autograd.grad(out.losses.sum(), (chosen, rejected))
    return {
        "losses": numbers(out.losses.detach()),
        "chosen_gradients": numbers(gradients[0]),
        "rejected_gradients": numbers(gradients[1]),
        "chosen_rewards": numbers(out.chosen_rewards),
        "rejected_rewards": numbers(out.rejected_rewards),
        "margins": numbers(out.margins),
        "chosen_slopes": numbers(out.chosen_slopes),
        "rejected_slopes": numbers(out.rejected_slopes),
        "in_tail": numbers(out.in_tail),
    }


def of_preferences(divergence: Divergence, dtype: torch.dtype) -> dict[str, Any]:
    """Computes every preference loss; values that all of them share only once."""
    computed = {
        name: of_loss(divergence, dtype, preference=name, beta=0.1) for name in fdpo.PREFERENCES
    }
    first, *others = computed.values()
    for one in others:
        for key in set(first) - {"losses", "chosen_gradients", "rejected_gradients"}:
            if repr(one.pop(key)) != repr(first[key]):
                raise RuntimeError(f"{divergence}: {key} depends on the preference loss")
    return computed


def losses(dtype: torch.dtype) -> dict[str, Any]:
    """Evaluates every divergence with every preference loss."""
    with OneThread():
        return {
            str(divergence): {
                **of_divergence(divergence, dtype), "preferences": of_preferences(divergence, dtype)
            }
            for divergence in divergences()
        }  # fmt: skip


def require_checkout() -> None:
    """Raises `ImportError` if another checkout's fdpo was imported."""
    if not Path(str(fdpo.__file__)).is_relative_to(ROOT):
        raise ImportError(f"{fdpo.__file__} is not in {ROOT}: set PYTHONPATH={ROOT}")


def losses_float64(_: Workplace) -> Any:
    """Evaluates every divergence and preference loss in float64."""
    require_checkout()
    return losses(torch.float64)


def losses_float32(_: Workplace) -> Any:
    """Evaluates every divergence and preference loss in float32."""
    require_checkout()
    return losses(torch.float32)


def loss_options(_: Workplace) -> Any:
    """Computes losses with each option, for some divergences, and resolves names."""
    require_checkout()
    names = ("jeffreys", "skew_js(0.3)", "0.7*js + 0.3*alpha(0.5)", "mine")
    some = [one for one in divergences() if str(one) in names]
    preferences = ("logistic", "robust", "squared")
    with OneThread():
        computed = {
            f"{divergence}, {preference}": {
                option: of_loss(divergence, torch.float64, preference=preference, **options)
                for option, options in OPTIONS.items()
            }
            for divergence in some
            for preference in preferences
        }
    return {"losses": computed, "names": {name: resolved(name) for name in NAMES}}


def resolved(name: str) -> Any:
    """Returns the divergence and the preference loss of a name, or that there is none."""
    try:
        divergence, preference = fdpo.resolve_loss(name)
    except ValueError:
        return "ValueError"
    return [str(divergence), preference, divergence.curvature]


# --- estimators ---


def normal(*shape: int, seed: int, mean: float = 0.0, scale: float = 1.0) -> Tensor:
    """Returns normal numbers that depend on the seed alone."""
    rng = torch.Generator().manual_seed(seed)
    return mean + scale * torch.randn(*shape, generator=rng, dtype=torch.float64)


def estimated(estimate: estimators.Estimate) -> list[Any]:
    """Returns a value, its error, and whether there is a warning."""
    return [estimate.value, estimate.error, bool(estimate.warning)]


def of_samples(policy: Tensor, reference: Tensor) -> dict[str, Any]:
    """Estimates divergences from samples of both models."""
    rows = {}
    for divergence in divergences():
        sides = ((policy, reference), (policy, None), (None, reference))
        rows[str(divergence)] = [
            estimated(estimators.divergence(divergence, *pair)) for pair in sides
        ]
    return {
        "reverse_kl": estimated(estimators.reverse_kl(policy)),
        "forward_kl": estimated(estimators.forward_kl(reference)),
        "jensen_shannon": estimated(estimators.jensen_shannon(policy, reference)),
        "mean_weight_policy": estimated(estimators.mean_weight(-policy)),
        "mean_weight_reference": estimated(estimators.mean_weight(reference)),
        "divergence": rows,
    }


def estimates(_: Workplace) -> Any:
    """Estimates divergences and means from fixed samples, near to and far from the reference."""
    require_checkout()
    with OneThread():
        logits, others = normal(3, 5, 7, seed=1), normal(3, 5, 7, seed=2)
        mask = torch.arange(5) < torch.tensor([[5], [3], [1]])
        values, groups = normal(9, seed=3), list("aabbbcdde")
        return {
            "near": of_samples(*near_samples()),
            "far": of_samples(*(40 * values for values in near_samples())),
            "mean": [estimated(estimators.mean(one)) for one in (values, normal(4, 3, seed=4))],
            "mean_of_groups": estimated(estimators.mean(values, groups)),
            "rao_blackwell_kl": estimators.rao_blackwell_kl(logits, others, mask).tolist(),
            "rao_blackwell_kl_all": estimators.rao_blackwell_kl(logits, others).tolist(),
            "predictive_entropy": estimators.predictive_entropy(logits, mask).tolist(),
            "predictive_entropy_all": estimators.predictive_entropy(logits).tolist(),
            "flat": estimators.flat({"x": estimators.mean(values)}, "base_"),
        }


def near_samples() -> tuple[Tensor, Tensor]:
    """Returns log-ratios of samples of two normal models that are 0.6 standard deviations apart."""
    shift = 0.6
    policy = normal(12, 4, seed=5, mean=shift**2 / 2, scale=shift)
    reference = normal(12, 4, seed=6, mean=-(shift**2) / 2, scale=shift)
    return policy, reference
