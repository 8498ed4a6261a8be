"""Trials: the faults of each program as a seed decides, and the comparison of their ends."""

from __future__ import annotations

import random
import re
import shutil
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from threading import Lock

from tests.faults.comparison import differences
from tests.faults.faults import (
    HARMED,
    Baseline,
    Broken,
    ClosedOutput,
    Damage,
    Fault,
    FullDisk,
    Kill,
    KillAt,
    KillUpload,
    NoCache,
    Twice,
)
from tests.faults.process import Hangs, Stage
from tests.faults.programs import PROGRAMS

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL, signal.SIGINT)
"""The signals of random moments, in turn."""
QUICKLY_DAMAGED = r"optimizer\.|random_states|\.safetensors$|trainer_state|\.png|parts/"
"""The files of a checkpoint or a data set that a quick look damages, a few of them."""
CACHELESS = ("no home", "read-only", "full disk", "a file in its place", "damaged")


@dataclass(frozen=True)
class Trial:
    """The result of a trial.

    Arguments:
        program: The name of the program.
        fault: The name of the fault.
        key: The fault with all its options: a trial is not repeated under the same.
        where: The moment and the phase that it hit.
        failure: The reason why it was not survived, "" if it was.
        seconds: The time that it took.
    """

    program: str
    fault: str
    key: str
    where: str
    failure: str
    seconds: float

    def row(self) -> dict[str, object]:
        """Returns the trial as a row of the results."""
        return asdict(self)


class Bench:
    """Uninterrupted runs and trials in a folder.

    Arguments:
        folder: The folder; what trials leave in it is removed if they are survived.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self.baselines: dict[str, Baseline] = {}
        self.locks = {name: Lock() for name in PROGRAMS}

    def stage(self, name: str, trial: str) -> Stage:
        """Returns a new stage of a program."""
        home = self.folder / name.replace(" ", "-").replace(",", "")
        setup, root = home / "setup", home / trial
        shutil.rmtree(root, ignore_errors=True)
        if not setup.exists():
            setup.mkdir(parents=True)
            PROGRAMS[name].set_up(setup)
        return Stage(PROGRAMS[name], setup, root)

    def baseline(self, name: str) -> Baseline:
        """Returns the uninterrupted run of a program, which runs once."""
        with self.locks[name]:
            if name not in self.baselines:
                self.baselines[name] = self._baseline(name)
            return self.baselines[name]

    def _baseline(self, name: str) -> Baseline:
        stage = self.stage(name, "uninterrupted")
        begun = time.time()
        if status := stage.end(stage.start()):
            raise Broken(f"status {status} without a fault: {stage.last_line()}")
        first = stage.changes("work/")[0][0]
        parted: list[Stage] = []

        def interrupted() -> Stage:
            with self.locks[name]:
                if not parted:
                    parted.append(self.stage(name, "interrupted"))
                    point = KillAt(signal.SIGKILL, PROGRAMS[name].interrupted)
                    point.play(parted[0], self.baselines[name])
                return parted[0]

        return Baseline(stage, first - begun, time.time() - first, interrupted)

    def run(self, name: str, fault: Fault, number: int) -> Trial:
        """Plays a fault, resumes and compares."""
        baseline, begun = self.baseline(name), time.monotonic()
        where, failure = "", ""
        stage = self.stage(name, f"trial-{number}")
        try:
            where = fault.play(stage, baseline)
            self._require_no_orphans(stage)
            if not fault.finishes:
                if status := stage.resume():
                    raise Broken(f"resuming ends with status {status}: {stage.last_line()}")
                self._require_no_orphans(stage)
            if lines := differences(baseline.stage.work, stage.work):
                raise Broken("; ".join(lines))
        except (Broken, Hangs) as error:
            failure = str(error)
        finally:
            stage.kill_orphans()
        if not failure:
            shutil.rmtree(stage.root, ignore_errors=True)
        where = where or (stage.phase() if stage.outputs else "")
        seconds = round(time.monotonic() - begun, 1)
        return Trial(name, fault.name, repr(fault), where, failure, seconds)

    def _require_no_orphans(self, stage: Stage) -> None:
        if not stage.program.adopts and (alive := stage.orphans()):
            raise Broken(f"{len(alive)} processes outlive it")


def plan(name: str, baseline: Baseline, kills: int, seed: int) -> Iterator[Fault]:
    """Yields the faults of a program: random moments, all points, full disks, caches, damages."""
    yield from random_kills(name, kills, seed)
    program, rng = PROGRAMS[name], random.Random(f"{seed} points of {name}")
    for point in program.points:
        yield KillAt(rng.choice(SIGNALS), point)
    if program.largest:
        yield FullDisk(program.largest)
        yield FullDisk(point=f"open work/* {rng.randint(2, 9)}")
    for how in CACHELESS if program.caches else ():
        yield NoCache(how)
    yield from damages(name, baseline, rng)
    for request in (2, 4) if program.upload else ():
        yield KillUpload(request)
    yield Twice()
    yield ClosedOutput()


def random_kills(name: str, kills: int, seed: int) -> Iterator[Kill]:
    """Yields signals at random moments; every fifth while the program loads."""
    rng = random.Random(f"{seed} kills of {name}")
    for number in range(kills):
        moment = round(rng.uniform(0.02, 0.98), 3)
        yield Kill(SIGNALS[number % len(SIGNALS)], -moment if number % 5 == 4 else moment)


def damages(name: str, baseline: Baseline, rng: random.Random) -> Iterator[Damage]:
    """Yields a damage of each file of an interrupted run that has one."""
    if not PROGRAMS[name].interrupted:
        return
    work = baseline.interrupted().work
    found = [path for pattern in PROGRAMS[name].damaged for path in sorted(work.glob(pattern))]
    for path in found:
        if path.is_file():
            yield Damage(str(path.relative_to(work)), rng.choice(HARMED))


def quick_plan(name: str, baseline: Baseline, seed: int = 0) -> Iterator[Fault]:
    """Yields the faults of a program that matter most: two kills, its first point, two damages."""
    yield from random_kills(name, 2, seed)
    program, rng = PROGRAMS[name], random.Random(f"{seed} quick {name}")
    for point in program.points[:1]:
        yield KillAt(signal.SIGKILL, point)
    if program.caches:
        yield NoCache("damaged")
    found = [one for one in damages(name, baseline, rng) if re.search(QUICKLY_DAMAGED, one.file)]
    chosen = rng.sample(found, min(2, len(found)))
    for fault, how in zip(chosen, rng.sample(HARMED, 2), strict=False):
        yield replace(fault, how=how)


def select(faults: Sequence[Fault], text: str) -> list[Fault]:
    """Returns the faults whose description holds a text."""
    return [fault for fault in faults if text in repr(fault)]


def play_all(
    bench: Bench,
    plans: Mapping[str, Callable[[str, Baseline], Iterable[Fault]]],
    jobs: int,
    done: Callable[[str, Fault], bool] = lambda name, fault: False,
) -> Iterator[Trial]:
    """Plays the faults of programs, several at a time, and yields the trials as they end.

    Arguments:
        bench: The bench.
        plans: The plan of each program by its name.
        jobs: The trials at a time.
        done: Whether a trial is not to be repeated.
    """
    with ThreadPoolExecutor(jobs) as pool:
        uninterrupted = {name: pool.submit(bench.baseline, name) for name in plans}
        trials = []
        for name, plan_faults in plans.items():
            try:
                faults = enumerate(plan_faults(name, uninterrupted[name].result()))
                missing = [(i, fault) for i, fault in faults if not done(name, fault)]
            except (Broken, Hangs) as error:
                yield Trial(name, "none", "none", "", str(error), 0.0)
                continue
            trials += [pool.submit(bench.run, name, fault, i) for i, fault in missing]
        for trial in as_completed(trials):
            yield trial.result()
