"""Sweep of text training over losses, betas and seeds on the same pairs, with one table.

    python train_dpo/sweep.py --loss sigmoid jsd alpha --alpha 0.3 0.7 --beta 0.03 0.3 --seed 0 1

Each run is one of ``train_dpo/train.py``, whose options may all be given several values. The first
run makes the pairs and the reference's log-probabilities for all. ``--config sweep_imdb`` is a grid
with trials of learning rates; ``--print`` prints the commands, for Slurm and others.
"""

from __future__ import annotations

from fdpo.cli import sweep as sweeps
from fdpo.cli.grid import Program
from fdpo.cli.quiet import quiet_libraries
from fdpo.programs.train_dpo.options import ALIASES, TYPES
from fdpo.tasks import COMMANDS

TRAIN = Program(
    path=COMMANDS / "train_dpo/train.py",
    types=TYPES,
    aliases=ALIASES,
    reference=("model_name_or_path", "model_revision", "dataset_name", "max_length", "dtype"),
    trial=lambda steps: {
        "max_steps": steps,
        "eval_strategy": "steps",
        "eval_steps": float(steps),
        "eval_num_prompts": 0,
    },
    trial_metric="eval_loss",
    former_names={"eval_num_prompts": "eval_openings"},
)


def main() -> None:
    quiet_libraries()
    sweeps.main(TRAIN)


if __name__ == "__main__":
    main()
