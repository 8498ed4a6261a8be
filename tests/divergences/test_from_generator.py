"""Divergences from a generator."""

import math
from collections.abc import Callable

import pytest
import torch

from fdpo import divergence_from_generator, get_divergence


def test_generator_agrees_with_the_closed_form() -> None:
    log_ratio = torch.linspace(-10, 10, 201, dtype=torch.float64)
    for generator, name in [
        (lambda u: u * u.log() - (u + 1) * ((u + 1) / 2).log(), "js"),
        (lambda u: -u.log(), "forward_kl"),
        (lambda u: (u - 1) ** 2, "pearson_chi2"),
    ]:
        mine = divergence_from_generator(generator, name="custom")
        theirs = get_divergence(name)
        torch.testing.assert_close(
            mine.link(log_ratio), theirs.link(log_ratio), rtol=1e-9, atol=1e-11
        )
        assert mine.exact is theirs.exact
        value = theirs.link(torch.tensor([-3.0, 0.1, 0.4]))
        torch.testing.assert_close(mine.inverse_link(value), theirs.inverse_link(value))


def test_name_of_the_function_is_the_default() -> None:
    def wall(u: torch.Tensor) -> torch.Tensor:
        return u * u.log() + 1 / u - 1

    assert str(divergence_from_generator(wall)) == "wall"


def test_generator_is_straight_beyond_30() -> None:
    neyman = divergence_from_generator(lambda u: (1 - u) ** 2 / u, name="custom")
    link = neyman.link(torch.tensor([-1e4, -40.0, -30.0], dtype=torch.float64))
    slope = neyman.slope(torch.tensor([-30.0], dtype=torch.float64))
    assert link.isfinite().all()
    torch.testing.assert_close(link[2] - link[1], 10 * slope[0])


@pytest.mark.parametrize(
    ("generator", "failure"),
    [
        (lambda u: u * u, r"bad: f\(1\) must be 0, it is 1"),
        (lambda u: u.log(), "bad: f is not convex at u = 1$"),
        (lambda u: torch.where(u < 2, u * u.log(), u * u.log() - u + 2), "not convex at u = 1.9"),
        (lambda u: (u - 1).abs() / 2, r"f''\(1\) must be above 0 to train, it is 0"),
        (lambda u: u.exp() - math.e, "f is not finite at u = 7"),
        (lambda u: 3.0, "same shape"),
        (lambda u: u.sum(), "same shape"),
        (lambda u: math.log(u), "fails on a float64 tensor"),
    ],
)
def test_generator_that_fails_a_condition(generator: Callable, failure: str) -> None:
    with pytest.raises(ValueError, match=failure):
        divergence_from_generator(generator, name="bad")
