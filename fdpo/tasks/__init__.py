"""Tasks: the embedded examples, each with its data, models and report."""

from pathlib import Path

COMMANDS = Path(__file__).resolve().parents[2]
"""The checkout: the folder of the commands."""
PRETRAINED = COMMANDS / "pretrained"
"""The folder of the embedded models."""
