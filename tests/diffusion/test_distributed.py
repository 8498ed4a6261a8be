"""Training in two processes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import os, signal, sys
from fdpo.diffusion import DDPM, DiffusionConfig, DiffusionTrainer
from tests.diffusion.tiny import tiny_model, tiny_pairs
folder, size = sys.argv[1], int(sys.argv[2])
config = DiffusionConfig(
    output_dir=folder, loss="jsd", train_batch_size=size, max_train_steps=4, use_cpu=True,
    logging_steps=1, lr_warmup_steps=2, learning_rate=1e-3, checkpointing_steps=3,
)
trainer = DiffusionTrainer(tiny_model(), DDPM(), tiny_pairs(), config)
if sys.argv[3:] == [os.environ.get("RANK")]:
    trainer.lr_scheduler.step = lambda: os.kill(os.getpid(), signal.SIGTERM)
trainer.train()
"""


def train_tiny(folder: Path, processes: int, *, stopped: str = "") -> list[dict[str, float]]:
    """Trains with a batch of 8 in all and returns the log; one process may be told to stop."""
    script = folder.with_suffix(".py")
    script.write_text(SCRIPT)
    root = Path(__file__).parents[2]
    environment = {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"}
    launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    command = [sys.executable, *(launch if processes > 1 else []), str(script)]
    arguments = [*command, str(folder), str(8 // processes), *filter(None, [stopped])]
    done = subprocess.run(
        arguments, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line) for line in (folder / "log.jsonl").open()]


def test_two_processes_give_the_curve_of_one(tmp_path: Path) -> None:
    logs = [train_tiny(tmp_path / str(number), number) for number in (1, 2)]
    for one, two in zip(*logs, strict=True):
        assert one.keys() == two.keys()
        for name in one.keys() - {"grad_norm"}:
            assert two[name] == pytest.approx(one[name], rel=1e-3, abs=1e-4), name
        assert two["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-2)


def test_all_processes_stop_when_one_is_told_to(tmp_path: Path) -> None:
    log = train_tiny(tmp_path / "run", 2, stopped="1")
    assert [row["step"] for row in log] == [1]
    assert [path.name for path in (tmp_path / "run").glob("checkpoint-*")] == ["checkpoint-1"]
