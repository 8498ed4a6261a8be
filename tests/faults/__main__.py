"""Fault bench: programs that are killed, starved of disk and fed damaged files, and then resumed.

    python -m tests.faults --kills 10 --seed 1 --output faults.json

Results are written as they come; a trial that is in the output already is not repeated.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from tests.faults.faults import Baseline, Fault
from tests.faults.programs import PROGRAMS
from tests.faults.table import Results, markdown
from tests.faults.trials import Bench, plan, play_all, select


def parse() -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser("python -m tests.faults", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--kills", type=int, default=10, help="at random moments, each program")
    parser.add_argument("--seed", type=int, default=0, help="decides moments, signals, damages")
    parser.add_argument("--programs", nargs="+", choices=PROGRAMS, default=list(PROGRAMS))
    parser.add_argument("--faults", default="", help="only those whose description holds this text")
    parser.add_argument("--jobs", type=int, default=2, help="trials at a time")
    parser.add_argument("--output", type=Path, default=Path("runs/faults.json"), help="results")
    parser.add_argument("--folder", type=Path, help="keeps what trials leave; default: a new one")
    return parser.parse_args()


def main() -> None:
    args = parse()
    results = Results(args.output)
    folder = args.folder or Path(tempfile.mkdtemp(prefix="fdpo-faults-"))

    def planned(name: str, baseline: Baseline) -> list[Fault]:
        return select(list(plan(name, baseline, args.kills, args.seed)), args.faults)

    def done(name: str, fault: Fault) -> bool:
        return (name, repr(fault)) in results

    plans = dict.fromkeys(args.programs, planned)
    for trial in play_all(Bench(folder), plans, args.jobs, done):
        results.add(trial)
        outcome = f"FAILED: {trial.failure}" if trial.failure else "survived"
        print(f"{trial.program}, {trial.fault} ({trial.where}): {outcome}", flush=True)
    print(f"\n{markdown(results.trials)}\n\ntrials that failed are in {folder}")


if __name__ == "__main__":
    main()
