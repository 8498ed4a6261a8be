"""The optimum under each divergence, in worlds of eight responses where it is known exactly.

    python benchmarks/tabular.py

Dirichlet references and normal rewards. For each divergence: the entropy and the reverse KL of the
policy with the largest reward less beta times the divergence, at equal shares of
the reward that the best response has over the reference, averaged over the worlds, and how much
more they are than the reverse KL's in the same world; and in the first world the policies of all
divergences at one of these shares.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fdpo import Divergence, curves, get_divergence, runs
from fdpo.cli import arguments
from fdpo.estimators.estimate import mean
from fdpo.estimators.optimum import optimal_policy
from fdpo.plotting import SHOWN

SHARES = [round(0.05 * step, 2) for step in range(1, 20)]
BASELINE = "reverse KL (DPO)"
BETAS = torch.logspace(3, -4, 281, dtype=torch.float64)


@dataclass
class Arguments:
    """Worlds."""

    responses: int = field(default=8, metadata={"help": "responses"})
    worlds: int = field(default=200, metadata={"help": "worlds"})
    seed: int = field(default=0, metadata={"help": "of references and rewards"})
    share: float = field(default=0.6, metadata={"help": "share at which policies are shown"})
    output: str = field(default="results/tabular.json", metadata={"help": "file of figures"})

    def __post_init__(self) -> None:
        if min(self.responses, self.worlds) < 2:
            raise ValueError("--responses and --worlds must be at least 2")
        if not 0 < self.share < 1:
            raise ValueError(f"--share must be between 0 and 1, got {self.share}")


def draw_worlds(own: Arguments) -> tuple[Tensor, Tensor]:
    """Draws references and rewards, with shape (worlds, responses)."""
    random = np.random.default_rng(own.seed)
    reference = random.dirichlet(np.ones(own.responses), own.worlds).clip(min=1e-3)
    rewards = random.normal(size=(own.worlds, own.responses))
    return torch.tensor(reference / reference.sum(axis=1, keepdims=True)), torch.tensor(rewards)


def path(d: Divergence, reference: Tensor, rewards: Tensor) -> dict[str, Tensor]:
    """Returns what the optimum is at each beta, from the strongest: shape (worlds, betas, *)."""
    policy = optimal_policy(d, reference[:, None], rewards[:, None], BETAS)
    base = (reference * rewards).sum(dim=1, keepdim=True)
    gain = (policy * rewards[:, None]).sum(dim=-1) - base
    return {
        "share": gain / (rewards.amax(dim=1, keepdim=True) - base),
        "entropy": torch.special.entr(policy).sum(dim=-1),
        "reverse_kl": (policy * (policy / reference[:, None]).log()).nan_to_num().sum(dim=-1),
        "policy": policy,
    }


def at_share(found: Mapping[str, Tensor], name: str, share: float) -> Tensor:
    """Returns a figure of each world where its path crosses a share of the reward."""
    return curves.crossing(found["share"], found[name], share)


def main() -> None:
    (own,) = arguments.parse((Arguments,), program="tabular.py")
    reference, rewards = draw_worlds(own)
    frontier: list[dict[str, Any]] = []
    equal: list[dict[str, Any]] = []
    paths = {
        label: path(get_divergence(name, **given), reference, rewards)
        for label, (name, given) in SHOWN.items()
    }
    for label, found in paths.items():
        names = {"label": label, "divergence": SHOWN[label][0]}
        for share in SHARES:
            row = {**names, "share": share}
            for figure in ("entropy", "reverse_kl"):
                values = at_share(found, figure, share)
                row[figure], row[f"{figure}_se"], _ = mean(values)
                more = values - at_share(paths[BASELINE], figure, share)
                row[f"{figure}_more"], row[f"{figure}_more_se"], _ = mean(more)
            frontier.append(row)
        path_of_first = found["share"][0].expand(own.responses, -1)
        policy = curves.crossing(path_of_first, found["policy"][0].T, own.share)
        equal.append({**names, "policy": policy.tolist()})
        [at] = [row for row in frontier if row["label"] == label and row["share"] == 0.5]
        print(
            f"{label}: at half the reward, entropy {at['entropy']:.3f} "
            f"(reverse KL's and {at['entropy_more']:.4f} ± {at['entropy_more_se']:.4f}), "
            f"reverse KL {at['reverse_kl']:.3f}"
        )
    record = {
        "arguments": arguments.resolved(own), "commit": runs.git_commit(), "share": own.share,
        "reference": reference[0].tolist(), "rewards": rewards[0].tolist(),
        "frontier": frontier, "equal_reward": equal,
    }  # fmt: skip
    runs.write_json(own.output, record)


if __name__ == "__main__":
    main()
