"""What an image model makes, measured: shares of digits and of what is none, variety, path KL."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fdpo.diffusion.models import image_shape, predictor
from fdpo.diffusion.noise import STEPS, NoiseProcess, errors
from fdpo.estimators.diversity import vendi_score
from fdpo.estimators.estimate import Estimate
from fdpo.tasks.mnist import DIGITS, DigitClassifier, Judged, judge, recall

HELD_OUT_SEED = 1_000_003  # of the noise that models are compared on; no training uses it


@torch.no_grad()
def sample_images(
    model: nn.Module,
    process: NoiseProcess,
    n: int,
    *,
    steps: int = STEPS,
    seed: int = 0,
    batch_size: int = 256,
    progress: str = "",
) -> Tensor:
    """Samples n pictures, with shape (n, C, H, W); the same seed means the same noise."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(n, *image_shape(model), generator=generator)
    device = next(model.parameters()).device
    model.eval()
    parts = noise.split(batch_size)
    return torch.cat(
        [
            process.sample(
                predictor(model),
                part.to(device),
                steps,
                progress and f"{progress} ({i * batch_size} of {n})",
            ).cpu()
            for i, part in enumerate(parts)
        ]
    )


@torch.no_grad()
def held_out_loss(
    model: nn.Module, process: NoiseProcess, pictures: Tensor, seed: int = 0
) -> float:
    """Returns the mean squared error of the target over pictures, one draw of each."""
    generator = torch.Generator().manual_seed(seed)
    total, device = 0.0, next(model.parameters()).device
    for batch in pictures.split(256):
        times = process.draw_times(len(batch), generator).to(device)
        noise = torch.randn(batch.shape, generator=generator).to(device)
        x = batch.to(device)
        prediction = predictor(model)(process.noised(x, noise, times), process.model_times(times))
        total += errors(prediction, process.target(x, noise, times)).sum().item()
    return total / len(pictures)


@torch.no_grad()
def path_kl(
    policy: nn.Module,
    reference: nn.Module,
    process: NoiseProcess,
    pictures: Tensor,
    *,
    draws: int = 4,
    seed: int = 0,
) -> tuple[float, float]:
    r"""Estimates the KL divergence of the policy's paths from the reference's, in nats.

    :math:`D\,E_t[T w_t\, \tfrac{1}{D}\lVert \text{policy} - \text{reference}\rVert^2]` at noised
    samples of the policy, which bounds the KL divergence of its pictures from above (up to the
    difference between its reverse paths and its noised samples). Returns the mean over pictures and
    its standard error.

    Arguments:
        policy: The policy.
        reference: The reference.
        process: Their noising process.
        pictures: Samples of the policy, with shape (N, C, H, W).
        draws: Times for each picture, one from each of as many equal parts of the time's range.
        seed: The seed of times and noise.
    """
    generator = torch.Generator().manual_seed(seed)
    dims, sums = pictures[0].numel(), torch.zeros(len(pictures))
    # Sorted and cut into equal parts: each picture gets a time from every part of the range.
    times = process.uniform_times(draws * len(pictures), generator).sort().values
    times = times.view(draws, len(pictures))
    device = next(policy.parameters()).device
    for part in times:
        order = torch.randperm(len(pictures), generator=generator)
        noise = torch.randn(pictures.shape, generator=generator)
        t = part[order]
        x_t = process.noised(pictures, noise, t).to(device)
        asked = process.model_times(t).to(device)
        for i in torch.arange(len(pictures)).split(256):
            gap = predictor(policy)(x_t[i], asked[i]) - predictor(reference)(x_t[i], asked[i])
            squares = gap.float().square().flatten(1).mean(1).cpu()
            sums[i] += dims * process.path_weights(t[i]) * squares
    each = sums / draws
    return each.mean().item(), each.std().item() / math.sqrt(len(each))


@dataclass(frozen=True)
class Report:
    """What a model's samples show.

    Attributes:
        pictures: The samples, with shape (N, 1, 28, 28).
        judged: What the classifier says of them.
    """

    pictures: Tensor
    judged: Judged

    @property
    def histogram(self) -> Tensor:
        """Shares of the ten digits, in distribution, and of the rest, with shape (11)."""
        shares = [self.judged.shows(digit).double().mean() for digit in range(DIGITS)]
        return torch.stack([*shares, 1 - self.judged.genuine.double().mean()])

    @property
    def histogram_errors(self) -> Tensor:
        """The binomial standard errors of the histogram, with shape (11)."""
        shares = self.histogram
        return (shares * (1 - shares) / len(self.pictures)).sqrt()

    def variety(self, digit: int, real: Tensor, block: int = 32, blocks: int = 32) -> float:
        """The recall of real pictures of a digit, given by features, by samples that show it.

        The mean over random sets of ``block`` of these samples, so that it is comparable whatever
        their number: the recall falls as samples are added to a manifold of k-th neighbours. Fewer
        samples than that make one set.
        """
        features = self.judged.features[self.judged.shows(digit)]
        generator = torch.Generator().manual_seed(0)
        orders = [torch.randperm(len(features), generator=generator) for _ in range(blocks)]
        return sum(recall(real, features[order[:block]]) for order in orders) / blocks

    def diversity(self, digit: int, real: Tensor, block: int = 50) -> Estimate | None:
        """The Vendi score of samples that show a digit, in blocks of ``block`` of them.

        By their features about the mean of those of real pictures; at most the size of a block, and
        comparable whatever the number of samples. ``None`` if there are fewer than two blocks.
        """
        features = self.judged.features[self.judged.shows(digit)] - real.mean(0)
        blocks = len(features) // block
        if blocks < 2:
            return None
        return vendi_score(features[: blocks * block].view(blocks, block, -1))

    def metrics(self, target: int) -> dict[str, float]:
        """The share of a digit and of what is out of distribution, with standard errors."""
        shares, errors = self.histogram, self.histogram_errors
        return {
            "share": shares[target].item(),
            "share_se": errors[target].item(),
            "out_of_distribution": shares[-1].item(),
            "out_of_distribution_se": errors[-1].item(),
        }


def report(
    model: nn.Module,
    process: NoiseProcess,
    classifier: DigitClassifier,
    n: int,
    *,
    steps: int = STEPS,
    seed: int = HELD_OUT_SEED,
    progress: str = "",
) -> Report:
    """Samples n pictures and judges them."""
    pictures = sample_images(model, process, n, steps=steps, seed=seed, progress=progress)
    return Report(pictures, judge(classifier, pictures))
