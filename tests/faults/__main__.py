"""Fault bench: programs that are killed, starved of disk and fed damaged files, and then resumed.

    python -m tests.faults --kills 10 --seed 1 --output faults.json

Results are written as they come; a trial that is in the output already is not repeated.
"""

from __future__ import annotations

import argparse
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.faults.faults import Fault
from tests.faults.programs import PROGRAMS
from tests.faults.table import Results, markdown
from tests.faults.trials import Bench, plan, select


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
    bench = Bench(folder)

    def play(name: str, fault: Fault, number: int) -> None:
        trial = bench.run(name, fault, number)
        results.add(trial)
        outcome = f"FAILED: {trial.failure}" if trial.failure else "survived"
        print(f"{name}, {trial.fault} ({trial.where}): {outcome} [{trial.seconds} s]", flush=True)

    with ThreadPoolExecutor(args.jobs) as pool:
        futures = []
        for name in args.programs:
            faults = select(
                list(plan(name, bench.baseline(name), args.kills, args.seed)), args.faults
            )
            missing = [fault for fault in faults if (name, repr(fault)) not in results]
            futures += [pool.submit(play, name, fault, faults.index(fault)) for fault in missing]
        for future in futures:
            future.result()
    print(f"\n{markdown(results.trials)}\n\nwhat failed is in {folder}")


if __name__ == "__main__":
    main()
