"""The optimum under each divergence, in a world of eight responses where it is known exactly.

    python benchmarks/tabular.py

A Dirichlet reference and normal rewards, as in the tests. For each divergence and beta: the reward,
the entropy and the distance of the policy with the largest reward less beta times the divergence
(``fdpo.tabular``); and the policies of all divergences at one reward.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fdpo import Divergence, arguments, get_divergence, runs
from fdpo.plotting import SHOWN
from fdpo.tabular import optimal_policy


@dataclass
class Arguments:
    """World."""

    responses: int = field(default=8, metadata={"help": "responses"})
    seed: int = field(default=0, metadata={"help": "of the reference and the rewards"})
    points: int = field(default=61, metadata={"help": "values of beta, from 0.01 to 100"})
    share: float = field(
        default=0.6,
        metadata={
            "help": "the equal reward: this share of what the best response has over the base"
        },
    )
    output: str = field(default="results/tabular.json", metadata={"help": "file of figures"})

    def __post_init__(self) -> None:
        if not 0 < self.share < 1 or self.responses < 2 or self.points < 2:
            raise ValueError("--share must be between 0 and 1, --responses and --points at least 2")


def world(own: Arguments) -> tuple[Tensor, Tensor]:
    """Draws the reference and the rewards."""
    random = np.random.default_rng(own.seed)
    reference = random.dirichlet(np.ones(own.responses)).clip(min=1e-3)
    rewards = random.normal(size=own.responses)
    return torch.tensor(reference / reference.sum()), torch.tensor(rewards)


def figures(policy: Tensor, reference: Tensor, rewards: Tensor) -> dict[str, float]:
    """Returns the reward, the entropy and the distances of a policy."""
    ratio = policy / reference

    def distance(name: str) -> float:
        return (reference * get_divergence(name).f(ratio)).sum().item()

    return {
        "reward": (policy @ rewards).item(),
        "entropy": torch.special.entr(policy).sum().item(),
        "reverse_kl": distance("reverse_kl"),
        "js": distance("js"),
    }


def at_reward(d: Divergence, reference: Tensor, rewards: Tensor, wanted: float) -> float:
    """Returns the beta whose optimum has a reward: the reward falls as beta grows."""
    low, high = -12.0, 12.0  # its logarithm
    for _ in range(100):
        middle = (low + high) / 2
        policy = optimal_policy(d, reference, rewards, float(np.exp(middle)))
        low, high = (middle, high) if policy @ rewards > wanted else (low, middle)
    return float(np.exp(low))


def main() -> None:
    (own,) = arguments.parse((Arguments,), program="tabular.py")
    reference, rewards = world(own)
    base = (reference @ rewards).item()
    wanted = base + own.share * (rewards.max().item() - base)
    divergences = {label: get_divergence(name, **given) for label, (name, given) in SHOWN.items()}
    frontier: list[dict[str, Any]] = []
    equal: list[dict[str, Any]] = []
    for label, d in divergences.items():
        for beta in np.logspace(2, -2, own.points):
            policy = optimal_policy(d, reference, rewards, float(beta))
            found = figures(policy, reference, rewards)
            frontier.append({"label": label, "divergence": d.name, "beta": float(beta), **found})
        beta = at_reward(d, reference, rewards, wanted)
        policy = optimal_policy(d, reference, rewards, beta)
        found = figures(policy, reference, rewards)
        row = {"label": label, "divergence": d.name, "beta": beta, **found}
        equal.append({**row, "policy": policy.tolist()})
        print(f"{label}: at reward {found['reward']:.3f} beta {beta:.3g}, entropy "
              f"{found['entropy']:.3f}, reverse KL {found['reverse_kl']:.3f}")  # fmt: skip
    runs.write_json(
        own.output,
        {
            "arguments": arguments.resolved(own), "commit": runs.git_commit(),
            "reference": reference.tolist(), "rewards": rewards.tolist(),
            "base": figures(reference, reference, rewards),
            "frontier": frontier, "equal_reward": equal,
        },
    )  # fmt: skip


if __name__ == "__main__":
    main()
