"""Pairs per second of Diffusion-DPO: a plain version of the published step, and fdpo's trainer.

    python -m benchmarks.diffusion --data_root DIR

The plain step is that of Wallace et al. (2024, https://arxiv.org/abs/2311.12908): winner and loser
in one batch with one time and noise, and a separate reference network that runs in every step. Both
train the embedded MNIST model by AdamW on the same random pairs of real images, an epoch a round,
each in a separate process, after two updates of warm-up. ``fdpo, first epoch`` starts with an empty
cache. ``fdpo, repeated`` repeats the times and the noise of that epoch (``--repeat_draws 1``), so
that its reference comes from the cache. Like ``diffusion/train.py``, both keep freed memory on a
CPU; ``plain, freed memory kept`` is the plain step with that alone. Before that loss and gradient
of a batch must agree for the same times and noise.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid
from torch.utils.data import default_collate

from benchmarks.comparison import (
    Row,
    alternate,
    flat_gradient,
    in_fresh_process,
    markdown_table,
    now,
    ratio,
    relative_differences,
    require_agreement,
    side_values,
)
from fdpo.cli import arguments
from fdpo.diffusion import DDPM, DiffusionConfig, DiffusionTrainer, ImagePairs
from fdpo.diffusion.models import load_image_model
from fdpo.runs.cache import OFF
from fdpo.runs.distributed import keep_freed_memory
from fdpo.tasks.mnist import load_mnist, target_pairs

PROGRAM = "benchmarks.diffusion"
SIDES = ("plain", "plain, freed memory kept", "fdpo, first epoch", "fdpo, repeated")
PLAIN, PLAIN_KEEPING_MEMORY, FIRST, REPEATED = SIDES
PUBLISHED = PLAIN, PLAIN_KEEPING_MEMORY
WARMUP = 2  # updates before the clock starts
KAPPA = 2500.0  # half the published beta of 5,000
TARGET = 2  # the digit of the winners
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
        default="results/diffusion_speed.json", metadata={"help": "JSON file to write"}
    )


class Plain:
    """The published step: a policy and a separate reference, nothing cached."""

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
    """The model and the pairs, and the training of each side on them."""

    def __init__(self, args: Arguments, folder: Path) -> None:
        self.args, self.folder = args, folder
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model, process = load_image_model(args.model)
        if not isinstance(process, DDPM):
            raise ValueError(f"--model {args.model} is not a diffusion model")
        self.process = process
        generator = torch.Generator().manual_seed(0)
        images, labels = load_mnist(args.data_root)
        number = args.batch * args.updates
        self.pairs: ImagePairs = target_pairs(images, labels, TARGET, number, generator)

    def plain(self) -> Plain:
        """Returns the published step."""
        return Plain(self.model, self.process, self.device, self.args.bf16)

    def trainer(self, cache: str, updates: int) -> DiffusionTrainer:
        """Returns fdpo's trainer, with a reference cache of this name."""
        config = DiffusionConfig(
            loss="sigmoid", kappa=KAPPA, train_batch_size=self.args.batch, repeat_draws=1,
            max_train_steps=updates, checkpointing_steps=updates + 1,
            learning_rate=LEARNING_RATE, lr_warmup_steps=0, output_dir=str(self.folder),
            reference_cache=cache if cache == OFF else str(self.folder / cache),
            mixed_precision="bf16" if self.args.bf16 else "no",
        )  # fmt: skip
        return DiffusionTrainer(copy.deepcopy(self.model), self.process, self.pairs, config)

    def batches(self, updates: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields chosen and rejected images, in random order."""
        order = torch.tensor(self.pairs.pairs)[torch.randperm(len(self.pairs))]
        for batch in order.split(self.args.batch)[:updates]:
            yield self.pairs.images[batch[:, 0]], self.pairs.images[batch[:, 1]]

    def plain_seconds(self) -> float:
        """Trains by the published step for an epoch and returns the seconds."""
        plain = self.plain()
        plain.train(self.batches(WARMUP))
        start = now()
        plain.train(self.batches(self.args.updates))
        return now() - start

    def fdpo_seconds(self, cache: str) -> float:
        """Trains by fdpo's trainer for an epoch, after a warm-up, and returns the seconds."""
        self.trainer(OFF, WARMUP).train()
        trainer = self.trainer(cache, self.args.updates)
        trainer.train()
        return trainer.seconds

    def disagreement(self) -> dict[str, float]:
        """Returns the relative differences of loss and gradient, a small step from the start."""
        plain, trainer = self.plain(), self.trainer(OFF, WARMUP)
        for policy in (plain.policy, trainer.policy):
            torch.manual_seed(0)
            with torch.no_grad():
                for parameter in policy.parameters():
                    parameter += 1e-4 * torch.randn(parameter.shape).to(self.device)
        examples = [trainer.dataset[0, index] for index in range(self.args.batch)]
        batch = {name: v.to(self.device) for name, v in default_collate(examples).items()}
        loss, _ = trainer.compute_loss(batch)
        times, noise = batch["times"][:, 0], batch["noise"][:, 0]
        expected = plain.loss(batch["chosen"], batch["rejected"], times, noise)
        gradients = flat_gradient(loss, trainer.policy), flat_gradient(expected, plain.policy)
        return relative_differences((loss, gradients[0]), (expected, gradients[1]))


def train_epoch(args: Arguments, folder: Path, side: str, number: int) -> Row:
    """Trains a side for an epoch."""
    if side != PLAIN:
        keep_freed_memory()
    sides = Sides(args, folder)
    published = side in PUBLISHED
    seconds = sides.plain_seconds() if published else sides.fdpo_seconds(f"cache-{number}")
    return {"pairs_per_second": len(sides.pairs) / seconds}


def summary(rows: list[Row]) -> str:
    """Returns the results as a table."""
    lines = [
        (
            side,
            f"{median(side_values(rows, side, 'pairs_per_second')):.1f}",
            ratio(rows, side, PLAIN, "pairs_per_second"),
            ratio(rows, side, FIRST, "pairs_per_second"),
        )
        for side in SIDES
    ]
    return markdown_table(("step", "pairs/s", "times plain", "times the first epoch"), lines)


def main() -> None:
    (args,) = arguments.parse((Arguments,), program=PROGRAM)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with arguments.usage_errors(PROGRAM):
            differences = Sides(args, folder).disagreement()
        require_agreement(differences, args.bf16)

        def measure(side: str, number: int) -> Row:
            return in_fresh_process(train_epoch, args, folder, side, number)

        record = {"arguments": arguments.resolved(args), "differences": differences}
        rows = alternate(SIDES, args.rounds, measure, args.output, record)
    print(summary(rows))


if __name__ == "__main__":
    main()
