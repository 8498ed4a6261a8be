"""Sweep of image training over losses, betas and seeds on the same pairs, with one table.

    python diffusion/sweep.py --loss sigmoid jsd alpha --alpha 0.3 0.7 --kappa 5 20 --seed 0 1

Each run is one of ``diffusion/train.py``, whose options may all be given several values. The first
run makes the pairs, and the reference is evaluated once for a seed. ``--config sweep_mnist`` is the
grid of results.ipynb; ``--print`` prints the commands, for Slurm and others.
"""

from __future__ import annotations

from fdpo.cli import sweep as sweeps
from fdpo.cli.grid import Program
from fdpo.cli.quiet import quiet_libraries
from fdpo.programs.diffusion.train import DataArguments, TrainConfig
from fdpo.tasks import COMMANDS

TRAIN = Program(
    path=COMMANDS / "diffusion/train.py",
    types=(DataArguments, TrainConfig),
    # The seed is that of the times and the noise.
    reference=("model", "flow_times", "data", "data_root", "target", "seed", "timesteps_per_pair"),
    trial=lambda steps: {
        "max_train_steps": steps,
        "logging_steps": 1,
        "eval_samples": 0,
        "validation_steps": 0,
    },
    trial_metric="loss",
)


def main() -> None:
    quiet_libraries()
    sweeps.main(TRAIN)


if __name__ == "__main__":
    main()
