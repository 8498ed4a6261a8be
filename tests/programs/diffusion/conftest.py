"""The fixtures of the tests of image models."""

from tests.diffusion.conftest import *  # noqa: F403
