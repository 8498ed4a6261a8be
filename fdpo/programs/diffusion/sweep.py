"""Trains a grid of losses and strengths on the same pictures, and puts all figures into one table.

    python diffusion/sweep.py --loss sigmoid jsd alpha --alpha 0.3 0.7 --kappa 5 20 --seed 0 1

Each cell is a run of ``diffusion/train.py``, whose options all may be given several values; the
pairs are made by the first, and the reference is run once for a seed. ``--config
diffusion/configs/sweep_mnist.yaml`` is the grid of results.ipynb; ``--print`` gives the commands,
for Slurm and others.
"""

from __future__ import annotations

from fdpo.cli import sweep as sweeps
from fdpo.programs.diffusion.train import DataArguments, TrainConfig
from fdpo.tasks import COMMANDS

TRAIN = sweeps.Program(
    path=COMMANDS / "diffusion/train.py",
    types=(DataArguments, TrainConfig),
    # The seed is that of the times and the noise.
    reference=("model", "flow_times", "data", "data_root", "target", "seed", "timesteps_per_pair"),
    steps="max_train_steps",
    check={"logging_steps": "1", "eval_samples": "0", "validation_steps": "0"},
    check_figure="loss",
)


def main() -> None:
    sweeps.main(TRAIN)


if __name__ == "__main__":
    main()
