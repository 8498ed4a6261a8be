"""Trains a language model on preference pairs with any f-divergence, and shows what it did.

    python train_dpo/train.py --loss alpha --alpha 0.5

With no arguments it trains the embedded IMDb model on pairs that are generated and scored on first
use. ``--model`` and ``--dataset`` take hub ids or local folders and files; ``--config`` a preset.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path

from trl import ModelConfig

from fdpo import arguments, runs
from fdpo.llm import experiment
from fdpo.llm.config import FDPOConfig

ROOT = Path(__file__).parents[1]
