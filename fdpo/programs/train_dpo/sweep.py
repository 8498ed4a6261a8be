"""Trains a grid of losses and strengths on the same pairs, and puts all figures into one table.

    python train_dpo/sweep.py --loss sigmoid jsd alpha --alpha 0.3 0.7 --beta 0.03 0.3 --seed 0 1

Each cell is a run of ``train_dpo/train.py``, whose options all may be given several values; the
pairs are made and the reference is run by the first. ``--config train_dpo/configs/sweep_imdb.yaml``
is a grid with a check of learning rates; ``--print`` gives the commands, for Slurm and others.
"""

from __future__ import annotations

import warnings

from fdpo.cli import sweep as sweeps
from fdpo.programs.train_dpo.train import ALIASES, TYPES
from fdpo.tasks import COMMANDS

TRAIN = sweeps.Program(
    path=COMMANDS / "train_dpo/train.py",
    types=TYPES,
    aliases=ALIASES,
    reference=("model_name_or_path", "model_revision", "dataset_name", "max_length", "dtype"),
    steps="max_steps",
    check={"eval_strategy": "steps", "eval_steps": "{steps}", "eval_num_prompts": "0"},
    check_figure="eval_loss",
)


def main() -> None:
    # TRL sets it under the name that transformers is about to drop.
    warnings.filterwarnings("ignore", ".*gradient_checkpointing", FutureWarning)
    sweeps.main(TRAIN)


if __name__ == "__main__":
    main()
