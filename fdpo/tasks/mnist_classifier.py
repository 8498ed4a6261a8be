"""Small models from scratch: a digit classifier that knows what is no digit."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, pad
from tqdm.auto import tqdm

from fdpo.tasks.mnist import FOREIGN, NONE, DigitClassifier


def train_classifier(
    pictures: Tensor,
    labels: Tensor,
    *,
    steps: int = 3000,
    batch_size: int = 128,
    learning_rate: float = 2e-3,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> DigitClassifier:
    """Trains a classifier on digits and, a third as many, pictures that are none.

    Arguments:
        pictures: Real digits, with shape (N, 1, 28, 28).
        labels: What they show, with shape (N).
        steps: Updates.
        batch_size: Real digits of an update.
        learning_rate: The peak of a one-cycle schedule.
        seed: The seed of weights, order and foreign pictures.
        device: Where to train.
    """
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    classifier = DigitClassifier().to(device)
    optimizer = torch.optim.AdamW(classifier.parameters(), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, steps)
    for _ in tqdm(range(steps), "training"):
        chosen = torch.randint(len(pictures), (batch_size,), generator=generator)
        digits = _moved(pictures[chosen], generator)
        foreign = _foreign(pictures, batch_size // 3, generator)
        inputs = torch.cat([digits, foreign])
        wanted = torch.cat([labels[chosen], torch.full((len(foreign),), NONE)])
        classifier.train()
        loss = cross_entropy(classifier(inputs.to(device)), wanted.to(device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return classifier.eval()


def _moved(pictures: Tensor, generator: torch.Generator, by: int = 2) -> Tensor:
    """Moves a batch by up to two pixels, black filling the border."""
    x, y = torch.randint(2 * by + 1, (2,), generator=generator).tolist()
    framed = pad(pictures, (by,) * 4, value=-1.0)
    return framed[:, :, y : y + pictures.shape[2], x : x + pictures.shape[3]]


def _foreign(pictures: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """Pictures that are no digits, of every kind."""
    each = -(-n // len(FOREIGN))
    kinds = []
    for kind in FOREIGN.values():
        chosen = torch.randint(len(pictures), (max(2, each),), generator=generator)
        kinds.append(kind(pictures[chosen], generator))
    return torch.cat(kinds)
