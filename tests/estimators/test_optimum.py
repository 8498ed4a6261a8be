r"""The minimum of the f-DPO loss over all policies of eight responses.

With preferences :math:`P(i \succ j) = \sigma(r_i - r_j)` it must be the policy that maximises
:math:`E_\pi[r] - \beta D_f(\pi \| \pi_\text{ref})`. By the KKT conditions that is
:math:`\pi_\text{ref} \exp(g^{-1}((r - \lambda)/\beta))`, with the :math:`\lambda` that makes it
sum to 1.
"""

import numpy as np
import pytest
import torch
from scipy.optimize import brentq, minimize, root
from torch import Tensor

from fdpo import DIVERGENCES, Divergence, divergence_from_generator, fdpo_loss, get_divergence
from fdpo.estimators.optimum import optimal_policy

K = 8
EXACT = [
    *(divergence for kind in DIVERGENCES.values() if (divergence := kind()).exact),
    get_divergence("alpha", alpha=0),
    get_divergence("alpha", alpha=1.5),
    get_divergence("skew_js", t=0.2),
    0.7 * get_divergence("js") + 0.3 * get_divergence("reverse_kl"),
    get_divergence("pearson_chi2") + 0.5 * get_divergence("forward_kl"),
    divergence_from_generator(lambda u: (1 - u) ** 2 / u + (u - 1) * u.log(), name="custom"),
]


def world(seed: int) -> tuple[Tensor, Tensor]:
    """Samples the reference's log-probabilities and the rewards, with shape (K)."""
    random = np.random.default_rng(seed)
    reference = random.dirichlet(np.ones(K)).clip(min=1e-3)
    reference, rewards = reference / reference.sum(), random.normal(size=K)
    return torch.tensor(reference).log(), torch.tensor(rewards)


def kkt_optimum(reference: Tensor, rewards: Tensor, divergence: Divergence, beta: float) -> Tensor:
    def policy(multiplier: float) -> Tensor:
        return (reference + divergence.inverse_link((rewards - multiplier) / beta)).exp()

    def excess(multiplier: float) -> float:
        return 1 - 1 / policy(multiplier).sum().item()  # finite where a ratio is infinite

    # With λ the least reward every ratio is at least 1, with λ the largest at most 1.
    multiplier = brentq(excess, rewards.min().item(), rewards.max().item(), xtol=1e-15)
    return policy(multiplier)


def fitted(
    reference: Tensor,
    rewards: Tensor,
    divergence: Divergence,
    beta: float,
    tail: float | None = None,
) -> Tensor:
    """Minimises the population loss from three starts; returns policies of shape (3, K)."""
    i, j = (~torch.eye(K, dtype=torch.bool)).nonzero().T
    preferred = torch.sigmoid(rewards[i] - rewards[j])

    def policy(logits: Tensor) -> Tensor:
        logits = logits.view(3, K - 1)  # that of the last response is 0
        return torch.log_softmax(torch.cat([logits, logits.new_zeros(3, 1)], dim=1), dim=1)

    def loss(logits: Tensor) -> Tensor:
        ratios = policy(logits) - reference
        out = fdpo_loss(ratios[:, i], ratios[:, j], divergence, beta=beta, tail=tail)
        return (preferred * out.losses).mean(dim=1).sum()

    def value_and_gradient(x: np.ndarray) -> tuple[float, np.ndarray]:
        logits = torch.tensor(x, requires_grad=True)
        value = loss(logits)
        return value.item(), torch.autograd.grad(value, logits)[0].numpy()

    def hessian(x: np.ndarray) -> np.ndarray:
        return torch.autograd.functional.hessian(loss, torch.tensor(x)).numpy()

    coarse = minimize(value_and_gradient, starts(reference), jac=True, options={"gtol": 1e-6})
    # a quasi-Newton method stalls at 5e-8
    polished = root(lambda x: value_and_gradient(x)[1], coarse.x, jac=hessian, tol=1e-15)
    best = polished.x if np.abs(polished.fun).max() < np.abs(coarse.jac).max() else coarse.x
    return policy(torch.tensor(best)).exp()


def starts(reference: Tensor) -> np.ndarray:
    """Returns the logits of the reference and of two policies that do not depend on it."""
    generator = torch.Generator().manual_seed(5)
    far = torch.randn(K - 1, generator=generator, dtype=torch.float64)
    return torch.cat([reference[:-1] - reference[-1], torch.zeros(K - 1), far]).numpy()


@pytest.mark.parametrize(("beta", "tail"), [(1.0, None), (0.3, 10.0)])
@pytest.mark.parametrize("divergence", EXACT, ids=str)
def test_exact_divergences_recover_the_optimum(
    divergence: Divergence, beta: float, tail: float | None
) -> None:
    reference, rewards = world(seed=0)
    optimum = kkt_optimum(reference, rewards, divergence, beta)
    assert optimum.sum().item() == pytest.approx(1, abs=1e-12)
    policies = fitted(reference, rewards, divergence, beta, tail)
    torch.testing.assert_close(policies, optimum.expand(3, K), rtol=0, atol=1e-8)


@pytest.mark.parametrize("divergence", EXACT[:-1], ids=str)
def test_a_constant_in_the_reward_changes_nothing(divergence: Divergence) -> None:
    reference, rewards = world(seed=1)
    optimum = kkt_optimum(reference, rewards, divergence, 0.5)
    moved = kkt_optimum(reference, rewards + 3.7, divergence, 0.5)
    torch.testing.assert_close(moved, optimum, rtol=0, atol=1e-12)


@pytest.mark.parametrize("divergence", EXACT, ids=str)
def test_optimum_is_that_of_reward_less_beta_times_divergence(divergence: Divergence) -> None:
    # checks the KKT optimum of the other tests against its definition
    reference, rewards = world(seed=0)
    optimum = kkt_optimum(reference, rewards, divergence, 0.5)

    def objective(policy: Tensor) -> float:
        ratio = policy / reference.exp()
        penalty = (reference.exp() * divergence.f(ratio)).sum()
        return ((policy * rewards).sum() - 0.5 * penalty).item()

    generator = torch.Generator().manual_seed(0)
    for size in (1e-1, 1e-4):
        step = size * torch.randn(50, K, generator=generator, dtype=torch.float64)
        others = optimum * step.exp()
        others = others / others.sum(dim=1, keepdim=True)
        assert max(objective(other) for other in others) < objective(optimum)


@pytest.mark.filterwarnings("ignore:.*is not exact")
class TestPearson:
    """The negative control: not exact, so right only while the optimum is interior."""

    divergence = get_divergence("pearson_chi2")

    def test_agrees_where_the_optimum_is_interior(self) -> None:
        reference, rewards = world(seed=3)
        assert ((reference.exp() * rewards).sum() - rewards.min()).item() < 2
        optimum = kkt_optimum(reference, rewards, self.divergence, 1.0)
        assert optimum.min() > 0
        policies = fitted(reference, rewards, self.divergence, 1.0)
        torch.testing.assert_close(policies, optimum.expand(3, K), rtol=0, atol=1e-8)

    @pytest.mark.parametrize("tail", [None, 10.0])
    def test_differs_where_the_optimum_is_not(self, tail: float | None) -> None:
        reference, rewards = world(seed=3)
        optimum = kkt_optimum(reference, rewards, self.divergence, 0.3)
        assert (optimum == 0).sum() == 3
        policies = fitted(reference, rewards, self.divergence, 0.3, tail)
        assert ((policies - optimum).abs().max(dim=1).values > 1e-2).all()
        assert not self.divergence.exact


class TestOptimalPolicy:
    @pytest.mark.parametrize("divergence", [*EXACT[:-1], TestPearson.divergence], ids=str)
    def test_equals_a_root_finders(self, divergence: Divergence) -> None:
        references, rewards = (torch.stack(both) for both in zip(*map(world, (0, 1)), strict=True))
        betas = torch.tensor([1.0, 0.03], dtype=torch.float64)
        policies = optimal_policy(divergence, references.exp(), rewards, betas)
        for row, reference, reward, beta in zip(
            policies, references, rewards, betas.tolist(), strict=True
        ):
            expected = kkt_optimum(reference, reward, divergence, beta)
            torch.testing.assert_close(row, expected, rtol=0, atol=1e-12)

    def test_reverse_kl_has_a_closed_form(self) -> None:
        reference, rewards = world(2)
        policies = optimal_policy(get_divergence("reverse_kl"), reference.exp(), rewards, 0.2)
        torch.testing.assert_close(policies, (reference + rewards / 0.2).softmax(dim=0))

    @pytest.mark.parametrize(
        ("reference", "beta", "says"),
        [
            ([0.5, 0.6], 1.0, "must sum to 1"),
            ([0.0, 1.0], 1.0, "must be above 0"),
            ([0.5, 0.5], 0.0, "must be above 0"),
        ],
    )
    def test_wrong_input(self, reference: list[float], beta: float, says: str) -> None:
        with pytest.raises(ValueError, match=says):
            optimal_policy(
                get_divergence("js"), torch.tensor(reference), torch.tensor([0.0, 1.0]), beta
            )
