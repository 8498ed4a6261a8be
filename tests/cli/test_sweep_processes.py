"""Processes of a sweep: each run is started once, whatever happens to it or to the sweep."""

from __future__ import annotations

import os
import random
import re
import signal
import time
from collections import Counter, defaultdict
from itertools import groupby
from pathlib import Path

import pytest

from tests.cli.quick_sweep import (
    GRID,
    Sweep,
    cut_power,
    ended_by,
    events,
    finished,
    run_forked,
    table,
    variables,
    wait_for,
)


def test_a_failing_run_is_reported_and_repeated(
    sweep: Sweep, ledger: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sweep("--beta", 13, 1, 2) == 1
    output = capsys.readouterr()
    assert len(table()) == 2
    log = re.search(
        r"sigmoid-beta13\S+: exit status 1: ValueError: thirteen is too much; see (\S+)", output.err
    )
    assert log and "Traceback" in Path(log[1]).read_text()
    assert "[1/3] sigmoid-beta13" in output.out
    assert re.search(r"\[2/3\].*1 failed.*left", output.out)
    assert sweep("--beta", 13, 1, 2) == 1
    assert Counter(what for what, _, _ in events(ledger)) == {"begin": 4, "step": 6, "end": 2}


def test_ten_kills_lose_no_finished_run_and_repeat_none(
    ledger: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PAUSE", "0.1")
    chance = random.Random(0)
    before: set[tuple[str, int, int]] = set()
    for attempt in range(10):
        old = {pid for _, _, pid in events(ledger)}
        process = run_forked(*GRID)
        wait_for(ledger, chance.randrange(1, 8), process, old)
        time.sleep(chance.random() / 5)
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL  # it had not come to its end
        if attempt % 2:  # otherwise the runs at work live on
            cut_power(ledger)
        assert before <= finished()
        before = finished()
    process = run_forked(*GRID)
    process.join()
    assert process.exitcode == 0 and len(table()) == len(finished()) == 25 and before <= finished()
    assert "repeat" not in {what for what, _, _ in events(ledger)}
    owners = defaultdict(list)
    for _, name, pid in events(ledger):
        owners[name].append(pid)
    for pids in owners.values():  # no two at work on a run at once
        assert len([pid for pid, _ in groupby(pids)]) == len(set(pids))
    assert max(len(set(pids)) for pids in owners.values()) > 1  # some were interrupted
    steps = Counter(name for what, name, _ in events(ledger) if what == "step")
    assert max(steps.values()) <= 4  # resumed, not started again


@pytest.mark.parametrize("keep", [False, True])
def test_checkpoints_of_a_run_that_outlived_its_sweep_are_removed(
    sweep: Sweep, ledger: Path, keep: bool
) -> None:
    assert sweep("--beta", 1, 2) == 0
    checkpoints = [run / "checkpoint-2" for run in Path("out/runs").iterdir()]
    for folder in checkpoints:  # no sweep was there at the end of the run
        folder.mkdir()
    assert sweep("--beta", 1, 2, "--keep_checkpoints", keep) == 0
    assert [folder.exists() for folder in checkpoints] == 2 * [keep]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_sweep_leaves_no_process_and_resumes(
    sweep: Sweep, ledger: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setenv("PAUSE", "0.2")
    assert ended_by(number, ledger, "--seed", 0, 1, 2, "--jobs", 2) == 130
    assert not finished()
    for _, _, pid in events(ledger):
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    assert sweep("--seed", 0, 1, 2, "--jobs", 2) == 0 and len(table()) == 3
    assert max(Counter(name for what, name, _ in events(ledger) if what == "step").values()) == 3


def test_a_second_ctrl_c_kills_the_runs(ledger: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAUSE", "0.2")
    monkeypatch.setenv("STUBBORN", "1")
    process = run_forked("--max_steps", 1000)
    wait_for(ledger, 2, process)
    for _ in range(2):
        os.kill(process.pid, signal.SIGINT)
        time.sleep(0.3)
    process.join()
    assert process.exitcode == 130
    [pid] = {pid for _, _, pid in events(ledger)}
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_one_sweep_at_a_time_is_at_work_in_a_folder(
    sweep: Sweep,
    ledger: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("PAUSE", "0.3")
    process = run_forked("--seed", 0, 1)
    wait_for(ledger, 2, process)
    assert sweep("--seed", 2) == 2
    assert capsys.readouterr().err == (
        "sweep.py: error: another sweep is at work in out: wait until it has ended\n"
    )
    assert sweep("--seed", 0, 1, 2, "--print") == 0  # the commands of what is not at work
    output = capsys.readouterr()
    assert [line.split("--seed=")[1][0] for line in output.out.splitlines()] == ["1", "2"]
    assert "3 of 3 runs" in output.err
    process.join()
    assert process.exitcode == 0 and sweep("--seed", 2) == 0 and len(table()) == 3
    assert Counter(what for what, _, _ in events(ledger)) == {"begin": 3, "step": 9, "end": 3}


def test_of_the_runs_with_one_reference_the_first_runs_alone(sweep: Sweep, ledger: Path) -> None:
    assert sweep("--model", "small", "big", "--seed", 0, 1, 2, "--jobs", 3) == 0
    models = {row["run"]: row["model"] for row in table()}
    order = [(what, models[name]) for what, name, _ in events(ledger)]
    for model in ("small", "big"):
        mine = [what for what, other in order if other == model]
        assert mine[:6] == ["begin", "step", "step", "step", "end", "begin"]


def test_a_reference_whose_first_run_fails_is_computed_by_the_next(sweep: Sweep) -> None:
    assert sweep("--beta", 13, 1, "--jobs", 2) == 1 and len(table()) == 1


def test_jobs_share_cores_and_devices(sweep: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    monkeypatch.setenv("PAUSE", "0.2")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: range(9), raising=False)
    assert sweep("--seed", 0, 1, 2, 3, "--jobs", 3) == 0
    assert {run["OMP_NUM_THREADS"] for run in variables()} == {"3"}
    assert {run["CUDA_VISIBLE_DEVICES"] for run in variables()} == {"3", "5"}
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert sweep("--seed", 4, "--jobs", 2) == 0
    assert {run["OMP_NUM_THREADS"] for run in variables()} == {"3", "1"}
