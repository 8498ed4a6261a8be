"""Pairs per second of Diffusion-DPO: the published step written plainly, and fdpo's trainer.

    python benchmarks/diffusion_speed.py --data_root DIR

The plain step is that of Wallace et al. (2024, https://arxiv.org/abs/2311.12908): winner and loser
in one batch with one time and noise, a reference network of its own that is run in every step. Both
train the embedded MNIST model by AdamW on the same random pairs of real pictures, an epoch a round,
each in a process of its own, after two updates that are not counted.
``fdpo, first epoch`` starts with an empty cache; ``fdpo, repeated`` has the draws of that epoch
again (``--repeat_draws 1``), so that its reference is read. As ``diffusion/train.py`` does, they
keep freed memory on a CPU; ``plain, memory kept`` is the plain step with that alone. First loss and
gradient of a batch must agree on the same draws.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import torch
from side_by_side import (
    Row,
    alone,
    alternate,
    differences,
    gradient_of,
    now,
    ratio,
    require_agreement,
    table,
    values,
)
from torch import Tensor, nn
from torch.nn.functional import logsigmoid
from torch.utils.data import default_collate

from fdpo.cli import arguments
from fdpo.diffusion import DDPM, DiffusionConfig, DiffusionTrainer, ImagePairs
from fdpo.diffusion.models import load_image_model
from fdpo.runs.cache import OFF
from fdpo.runs.distributed import keep_freed_memory
from fdpo.tasks.mnist import load_mnist, target_pairs

SIDES = ("plain", "plain, memory kept", "fdpo, first epoch", "fdpo, repeated")
PLAIN, PLAIN_KEPT, FIRST, REPEATED = SIDES
PUBLISHED = PLAIN, PLAIN_KEPT
WARM = 2  # updates before the clock runs
KAPPA = 2500.0  # half the published beta of 5,000
DIGIT = 2  # what wins
LEARNING_RATE = 1e-5


@dataclass
class Arguments:
    """Comparison."""

    data_root: str = field(default="data", metadata={"help": "folder of MNIST's files"})
    model: str = field(default="pretrained/mnist-ddpm", metadata={"help": "folder"})
    batch: int = field(default=64, metadata={"help": "pairs of an update"})
    updates: int = field(default=10, metadata={"help": "updates of an epoch"})
    rounds: int = field(default=9, metadata={"help": "rounds"})
    bf16: bool = field(default=False, metadata={"help": "bfloat16 autocast"})
    output: str = field(
        default="results/diffusion_speed.json", metadata={"help": "file of figures"}
    )


class Plain:
    """The published step: a policy, a separate reference, nothing kept."""

    def __init__(self, model: nn.Module, process: DDPM, device: torch.device, bf16: bool) -> None:
        self.reference = copy.deepcopy(model).requires_grad_(False).to(device)
        self.policy = copy.deepcopy(model).requires_grad_(True).to(device).train()
        self.process, self.device, self.bf16 = process, device, bf16
        self.optimizer = torch.optim.AdamW(
            self.policy.parameters(), lr=LEARNING_RATE, weight_decay=0.0
        )

    def loss(self, chosen: Tensor, rejected: Tensor, times: Tensor, noise: Tensor) -> Tensor:
        """Returns the loss of B pairs, with B times and noises."""
        x, times, noise = torch.cat([chosen, rejected]), times.repeat(2), torch.cat([noise, noise])
        noised = self.process.noised(x, noise, times)
        target = self.process.target(x, noise, times)
        chosen_error, rejected_error = self._errors(self.policy, noised, times, target).chunk(2)
        with torch.no_grad():
            reference = self._errors(self.reference, noised, times, target)
        base_chosen, base_rejected = reference.chunk(2)
        difference = (chosen_error - rejected_error) - (base_chosen - base_rejected)
        return -logsigmoid(-KAPPA * difference).mean()

    def _errors(self, model: nn.Module, noised: Tensor, times: Tensor, target: Tensor) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            prediction = model(noised, times).sample
        return (prediction.float() - target).square().flatten(1).mean(1)

    def train(self, batches: Iterator[tuple[Tensor, Tensor]]) -> None:
        """Takes a step for each batch of pairs."""
        for chosen, rejected in batches:
            times = torch.randint(len(self.process.betas), (len(chosen),), device=self.device)
            noise = torch.randn_like(chosen, device=self.device)
            loss = self.loss(chosen.to(self.device), rejected.to(self.device), times, noise)
            loss.backward()
            nn.utils.clip_grad_norm_(self.policy.parameters(), 1.0)
            self.optimizer.step()
            self.optimizer.zero_grad()


class Sides:
    """The model and the pairs, and how each side trains on them."""

    def __init__(self, own: Arguments, folder: Path) -> None:
        self.own, self.folder = own, folder
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model, process = load_image_model(own.model)
        if not isinstance(process, DDPM):
            raise ValueError(f"--model {own.model} is no diffusion model")
        self.process = process
        generator = torch.Generator().manual_seed(0)
        pictures, labels = load_mnist(own.data_root)
        number = own.batch * own.updates
        self.pairs: ImagePairs = target_pairs(pictures, labels, DIGIT, number, generator)

    def plain(self) -> Plain:
        """Makes the published step."""
        return Plain(self.model, self.process, self.device, self.own.bf16)

    def trainer(self, cache: str, updates: int) -> DiffusionTrainer:
        """Makes fdpo's trainer, with a cache of the reference of this name."""
        config = DiffusionConfig(
            loss="sigmoid", kappa=KAPPA, train_batch_size=self.own.batch, repeat_draws=1,
            max_train_steps=updates, checkpointing_steps=updates + 1,
            learning_rate=LEARNING_RATE, lr_warmup_steps=0, output_dir=str(self.folder),
            reference_cache=cache if cache == OFF else str(self.folder / cache),
            mixed_precision="bf16" if self.own.bf16 else "no",
        )  # fmt: skip
        return DiffusionTrainer(copy.deepcopy(self.model), self.process, self.pairs, config)

    def batches(self, updates: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields chosen and rejected pictures, in random order."""
        order = torch.tensor(self.pairs.pairs)[torch.randperm(len(self.pairs))]
        for batch in order.split(self.own.batch)[:updates]:
            yield self.pairs.images[batch[:, 0]], self.pairs.images[batch[:, 1]]

    def plain_seconds(self) -> float:
        """Trains by the published step for an epoch and returns the seconds."""
        plain = self.plain()
        plain.train(self.batches(WARM))
        begun = now()
        plain.train(self.batches(self.own.updates))
        return now() - begun

    def fdpo_seconds(self, cache: str) -> float:
        """Trains by fdpo's trainer for an epoch and returns the seconds, after its first check."""
        self.trainer(OFF, WARM).train()
        trainer = self.trainer(cache, self.own.updates)
        trainer.train()
        return trainer.seconds

    def disagreement(self) -> dict[str, float]:
        """Returns the relative differences of loss and gradient, a small step from the start."""
        plain, trainer = self.plain(), self.trainer(OFF, WARM)
        for policy in (plain.policy, trainer.policy):
            torch.manual_seed(0)
            with torch.no_grad():
                for parameter in policy.parameters():
                    parameter += 1e-4 * torch.randn(parameter.shape).to(self.device)
        examples = [trainer.dataset[0, index] for index in range(self.own.batch)]
        batch = {name: v.to(self.device) for name, v in default_collate(examples).items()}
        loss, _ = trainer.compute_loss(batch)
        draws = batch["times"][:, 0], batch["noise"][:, 0]
        expected = plain.loss(batch["chosen"], batch["rejected"], *draws)
        ours, theirs = gradient_of(loss, trainer.policy), gradient_of(expected, plain.policy)
        return differences((loss, ours), (expected, theirs))


def epoch(own: Arguments, folder: Path, side: str, number: int) -> Row:
    """Trains a side for an epoch."""
    if side != PLAIN:
        keep_freed_memory()
    sides = Sides(own, folder)
    published = side in PUBLISHED
    seconds = sides.plain_seconds() if published else sides.fdpo_seconds(f"cache-{number}")
    return {"pairs_per_second": len(sides.pairs) / seconds}


def summary(rows: list[Row]) -> str:
    """Returns the table."""
    lines = [
        (
            side,
            f"{median(values(rows, side, 'pairs_per_second')):.1f}",
            ratio(rows, side, PLAIN, "pairs_per_second"),
            ratio(rows, side, FIRST, "pairs_per_second"),
        )
        for side in SIDES
    ]
    return table(("step", "pairs/s", "times plain", "times the first epoch"), lines)


def main() -> None:
    (own,) = arguments.parse((Arguments,), program="diffusion_speed.py")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with arguments.usage_errors("diffusion_speed.py"):
            found = Sides(own, folder).disagreement()
        require_agreement(found, own.bf16)

        def measure(side: str, number: int) -> Row:
            return alone(epoch, own, folder, side, number)

        record = {"arguments": arguments.resolved(own), "differences": found}
        rows = alternate(SIDES, own.rounds, measure, own.output, record)
    print(summary(rows))


if __name__ == "__main__":
    main()
