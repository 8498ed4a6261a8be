"""Exact optima under each divergence, in tabular worlds of eight responses.

    python -m experiments.tabular

References are Dirichlet, rewards normal. The program writes, for each divergence, the entropy and
the reverse KL of the policy that maximises the reward minus beta times the divergence. They are
taken at equal shares of the reward that the best response gains over the reference and averaged
over worlds, as values and as differences from the reverse KL's in the same world. Of the first
world it writes the policies of all divergences at one of these shares.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from experiments.curves import crossing
from fdpo import Divergence, get_divergence, runs
from fdpo.cli import arguments
from fdpo.estimators.estimate import mean
from fdpo.estimators.optimum import optimal_policy
from fdpo.plotting import SHOWN

PROGRAM = "experiments.tabular"
SHARES = [round(0.05 * step, 2) for step in range(1, 20)]
BASELINE = "reverse KL (DPO)"
BETAS = torch.logspace(3, -4, 281, dtype=torch.float64)


@dataclass
class Arguments:
    """Worlds."""

    responses: int = field(default=8, metadata={"help": "number of responses"})
    worlds: int = field(default=200, metadata={"help": "number of worlds"})
    seed: int = field(default=0, metadata={"help": "seed of references and rewards"})
    share: float = field(
        default=0.6, metadata={"help": "share of the reward at which to show policies"}
    )
    output: str = field(default="results/tabular.json", metadata={"help": "JSON file to write"})

    def __post_init__(self) -> None:
        if min(self.responses, self.worlds) < 2:
            raise ValueError("--responses and --worlds must be at least 2")
        if not 0 < self.share < 1:
            raise ValueError(f"--share must be between 0 and 1, got {self.share}")


def sample_worlds(args: Arguments) -> tuple[Tensor, Tensor]:
    """Samples references and rewards, with shape (worlds, responses)."""
    random = np.random.default_rng(args.seed)
    reference = random.dirichlet(np.ones(args.responses), args.worlds).clip(min=1e-3)
    rewards = random.normal(size=(args.worlds, args.responses))
    return torch.tensor(reference / reference.sum(axis=1, keepdims=True)), torch.tensor(rewards)


def optima(d: Divergence, reference: Tensor, rewards: Tensor) -> dict[str, Tensor]:
    """Returns the optimum at each beta, from the largest: shape (worlds, betas, *)."""
    policy = optimal_policy(d, reference[:, None], rewards[:, None], BETAS)
    base = (reference * rewards).sum(dim=1, keepdim=True)
    gain = (policy * rewards[:, None]).sum(dim=-1) - base
    return {
        "share": gain / (rewards.amax(dim=1, keepdim=True) - base),
        "entropy": torch.special.entr(policy).sum(dim=-1),
        "reverse_kl": (policy * (policy / reference[:, None]).log()).nan_to_num().sum(dim=-1),
        "policy": policy,
    }


def at_share(path: Mapping[str, Tensor], name: str, share: float) -> Tensor:
    """Returns a value of each world where its path crosses a share of the reward."""
    return crossing(path["share"], path[name], share)


def policy_at_share(path: Mapping[str, Tensor], share: float) -> list[float]:
    """Returns the policy of the first world at a share of the reward."""
    policies = path["policy"][0].T
    return crossing(path["share"][0].expand(len(policies), -1), policies, share).tolist()


def frontier(path: Mapping[str, Tensor], baseline: Mapping[str, Tensor]) -> list[dict[str, float]]:
    """Returns entropy and reverse KL at each share, and their differences from the baseline."""
    rows = []
    for share in SHARES:
        row = {"share": share}
        for name in ("entropy", "reverse_kl"):
            values = at_share(path, name, share)
            row[name], row[f"{name}_se"], _ = mean(values)
            more = values - at_share(baseline, name, share)
            row[f"{name}_more"], row[f"{name}_more_se"], _ = mean(more)
        rows.append(row)
    return rows


def print_half(label: str, rows: Sequence[Mapping[str, float]]) -> None:
    """Prints the values at half of the reward."""
    [row] = [row for row in rows if row["share"] == 0.5]
    print(
        f"{label}: at half the reward, entropy {row['entropy']:.3f} "
        f"(reverse KL's and {row['entropy_more']:.4f} ± {row['entropy_more_se']:.4f}), "
        f"reverse KL {row['reverse_kl']:.3f}"
    )


def main() -> None:
    (args,) = arguments.parse((Arguments,), program=PROGRAM)
    reference, rewards = sample_worlds(args)
    paths = {
        label: optima(get_divergence(name, **parameters), reference, rewards)
        for label, (name, parameters) in SHOWN.items()
    }
    frontiers: list[dict[str, Any]] = []
    policies: list[dict[str, Any]] = []
    for label, path in paths.items():
        names = {"label": label, "divergence": SHOWN[label][0]}
        rows = frontier(path, paths[BASELINE])
        frontiers += [names | row for row in rows]
        policies.append({**names, "policy": policy_at_share(path, args.share)})
        print_half(label, rows)
    record = {
        "arguments": arguments.resolved(args), "commit": runs.git_commit(), "share": args.share,
        "reference": reference[0].tolist(), "rewards": rewards[0].tolist(),
        "frontier": frontiers, "equal_reward": policies,
    }  # fmt: skip
    runs.write_json(args.output, record)


if __name__ == "__main__":
    main()
