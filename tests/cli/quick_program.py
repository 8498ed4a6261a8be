"""A stand-in for a training program: a few steps with a checkpoint each, and metrics at the end.

It writes what it does to the ledger ``$LEDGER``: ``begin`` (``repeat`` if it was finished), each
``step`` and ``end``, with its folder and process. A beta of 13 fails; with a learning rate of 7 the
loss is not a number, from 8 on training diverges; otherwise the loss is least where the rate is
beta. With ``$STUBBORN`` it ignores SIGTERM.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

options = {}
words = iter(sys.argv[1:])
for word in words:
    name, _, value = word.removeprefix("--").partition("=")
    options[name] = value or next(words)
folder = Path(options["output_dir"])
if "STUBBORN" in os.environ:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
resume = options.get("resume_from_checkpoint")


def note(what: str) -> None:
    with open(os.environ["LEDGER"], "a") as ledger:
        ledger.write(f"{what} {folder.name} {os.getpid()}\n")


def write(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".half").write_text(json.dumps(value))
    path.with_suffix(".half").rename(path)


note("repeat" if (folder / "metrics.json").exists() else "begin")
if (folder / "run.json").exists() and resume != "last":
    sys.exit(f"error: {folder} already holds a run")
variables = {name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES")}
variables |= {name: value for name, value in os.environ.items() if name.startswith("WANDB_R")}
beta = float(options.get("beta", 0.1))
recorded = {"model": "small", "loss": "sigmoid", "learning_rate": 1.0, **options, "beta": beta}
record = {"options": recorded, "git_commit": "abc", "commands": [" ".join(sys.argv)]}
write(folder / "run.json", record | {"variables": variables})
if options.get("beta") == "13":
    print("a drawing of a bar: 10 %", end="\r", file=sys.stderr)
    raise ValueError("thirteen is too much")
steps, rate = int(options.get("max_steps", 3)), float(options.get("learning_rate", 1))
if rate >= 8:
    (folder / "diverged.txt").write_text("step 1: the loss of pair 0 is inf")
    raise FloatingPointError("step 1: the loss of pair 0 is inf")
done = len(list(folder.glob("checkpoint-*/trainer_state.json"))) if resume else 0
for step in range(done + 1, steps + 1):
    time.sleep(float(os.environ.get("PAUSE", 0)))
    write(folder / f"checkpoint-{step}/trainer_state.json", step)
    note("step")
loss = float("nan") if rate == 7 else abs(rate - beta)
rows = [{"step": step, "loss": loss + (10 if step == 1 else 0)} for step in range(1, steps + 1)]
(folder / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
note("end")
write(folder / "metrics.json", {"reward": beta * 2, "steps": steps})
