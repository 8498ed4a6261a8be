"""A sweep runs each cell once, whatever happens to it, and leaves one table."""

from __future__ import annotations

import csv
import json
import math
import multiprocessing
import os
import random
import re
import shlex
import signal
import subprocess
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest

from fdpo.cli import sweep as sweeps
from fdpo.losses.config import LossConfig

Sweep = Callable[..., int]


@dataclass
class QuickConfig(LossConfig):
    model: str = "small"
    scorers: list[str] = field(default_factory=lambda: ["vader"])
    learning_rate: float = 1.0
    max_steps: int = 3
    eval_openings: int = 10
    seed: int = 0
    logging_steps: int = 1
    report_to: str = "none"
    output_dir: str | None = None
    resume_from_checkpoint: str | None = None

    def __post_init__(self) -> None:
        self.check_loss()


QUICK = sweeps.Program(
    path=Path(__file__).with_name("quick_program.py"),
    types=(QuickConfig,),
    reference=("model",),
    steps="max_steps",
    check={"eval_openings": "0"},
    check_figure="loss",
    aliases={"lr": "learning_rate"},
)


@pytest.fixture
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LEDGER", str(tmp_path / "ledger"))
    (tmp_path / "ledger").touch()
    return tmp_path / "ledger"


@pytest.fixture
def sweep(ledger: Path) -> Sweep:
    """Runs a sweep of the stand-in program in the folder ``out``; returns the exit status."""

    def run(*options: object) -> int:
        try:
            sweeps.main(QUICK, [*map(str, options), "--output_dir", "out"])
        except SystemExit as stop:
            return int(stop.code or 0)
        return 0

    return run


def table() -> list[dict[str, Any]]:
    return pyarrow.parquet.read_table("out/table.parquet").to_pylist()


def events(ledger: Path) -> list[tuple[str, str, int]]:
    rows = [line.split() for line in ledger.read_text().splitlines()]
    return [(what, name, int(pid)) for what, name, pid in rows]


def printed(capsys: pytest.CaptureFixture[str]) -> list[list[str]]:
    """The options of the commands that --print printed."""
    lines = capsys.readouterr().out.splitlines()
    return [shlex.split(line)[2:] for line in lines if "quick_program.py" in line]


def test_a_cell_for_each_combination_and_one_for_losses_without_alpha(
    sweep: Sweep, capsys: pytest.CaptureFixture[str]
) -> None:
    options = "--loss jsd alpha skew_js --alpha 0.3 .7 7e-1 --beta=1 --seed 0 --seed 1".split()
    assert sweep(*options, "--loss_args", '{"t": 0.3}', "--print") == 0
    cells = {tuple(word for word in words if "output_dir" not in word) for words in printed(capsys)}
    found = sorted(" ".join(words[:-1]) for words in cells)
    both = ("--seed=0", "--seed=1")
    assert found == sorted(
        [f"--loss=jsd --beta=1 {seed}" for seed in both]
        + [f"--loss=alpha --alpha={a} --beta=1 {seed}" for a in ("0.3", ".7") for seed in both]
        + [f'--loss=skew_js --beta=1 {seed} --loss_args={{"t": 0.3}}' for seed in both]
    )
    assert not Path("out").exists()


def test_the_first_option_varies_slowest_and_yaml_is_read_alike(
    sweep: Sweep, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "grid.yaml").write_text(
        "seed: [1, 0]\nloss: [alpha, jsd]\nalpha: 0.5\nscorers: [[a, b], [c]]\nlr: 1e-1\n"
        "loss_args: {alpha: 1}\njobs: 2\n"
    )
    sweep("--config", "grid.yaml", "--loss", "hinge", "ipo", "--print")
    of_file = printed(capsys)
    words = "--seed 1 0 --loss hinge ipo --scorers a b --scorers c --learning-rate 0.1 --print"
    sweep(*words.split())
    of_line = printed(capsys)
    assert [words[:2] for words in of_line] == [
        [f"--seed={seed}", f"--loss={loss}"]
        for seed in (1, 0) for loss in ("hinge", "ipo") for _ in range(2)
    ]  # fmt: skip
    assert of_line[0][2:-2] == ["--scorers", "a", "b", "--learning_rate=0.1"]
    assert of_line[1][2:-2] == ["--scorers=c", "--learning_rate=0.1"]
    assert [words[-1] for words in of_file] == [words[-1] for words in of_line]  # the folders


def test_everything_lands_in_one_table(sweep: Sweep, ledger: Path) -> None:
    grid = ("--loss", "jsd", "alpha", "--alpha", 0.5, "--beta", 0.1, 0.4)
    assert sweep(*grid, "--jobs", 2) == 0
    rows = table()
    assert [row["reward"] for row in rows] == pytest.approx([2 * row["beta"] for row in rows])
    assert Counter((row["loss"], row["beta"]) for row in rows) == {
        (loss, beta): 1 for loss in ("jsd", "alpha") for beta in (0.1, 0.4)
    }
    for row in rows:
        assert row["commit"] == "abc" and row["seconds"] > 0 and "--output_dir" in row["command"]
    with open("out/table.csv", newline="") as file:
        assert [float(row["beta"]) for row in csv.DictReader(file)] == [r["beta"] for r in rows]
    assert not list(Path("out/cells").glob("*/checkpoint-*"))
    before = ledger.read_text()
    # However a value is written, and whatever only alters what is shown, the cell is the same.
    again = ("--seed", 0, "--loss", "alpha", "jsd", "--alpha", "5e-1", "--beta", ".40", "1e-1")
    assert sweep(*again, "--logging_steps", 5) == 0 and ledger.read_text() == before
    assert sweep("--loss", "jsd", "--beta", 0.7, "--keep_checkpoints") == 0
    assert len(table()) == 5 and len(list(Path("out/cells").glob("*/checkpoint-*"))) == 3
    assert sweep("--loss", "jsd", "--beta", 0.7, "--eval_openings", 20) == 0
    assert len(table()) == 6  # figures of other openings are other figures


def test_a_failing_cell_is_reported_and_tried_again(
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


def run_forked(*options: object) -> Any:
    """Starts a sweep in a process that has imported everything already."""
    argv = [*map(str, options), "--output_dir", "out"]
    process = multiprocessing.get_context("fork").Process(target=sweeps.main, args=(QUICK, argv))
    process.start()
    return process


def wait_for(ledger: Path, lines: int, process: Any, old: Collection[int] = ()) -> None:
    """Waits for so many lines of the ledger that are not of old processes, or the sweep's end."""
    while process.is_alive() and sum(pid not in old for _, _, pid in events(ledger)) < lines:
        time.sleep(0.01)


GRID = ("--beta", 0.1, 0.2, 0.3, 0.4, 0.5, "--seed", *range(5), "--max_steps", 4, "--jobs", 2)


def finished() -> set[tuple[str, int, int]]:
    """The finished cells, each with what tells its figures from others written later."""
    found = [(path.parent.name, path.stat()) for path in Path("out/cells").glob("*/metrics.json")]
    return {(name, stat.st_ino, stat.st_mtime_ns) for name, stat in found}


def cut_power(ledger: Path) -> None:
    """Kills the cells that are at work."""
    ended = {pid for what, _, pid in events(ledger) if what == "end"}
    for pid in {pid for _, _, pid in events(ledger)} - ended:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def test_ten_kills_lose_no_finished_cell_and_repeat_none(
    ledger: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PAUSE", "0.1")
    chance = random.Random(0)
    kept: set[tuple[str, int, int]] = set()
    for attempt in range(10):
        old = {pid for _, _, pid in events(ledger)}
        process = run_forked(*GRID)
        wait_for(ledger, chance.randrange(1, 8), process, old)
        time.sleep(chance.random() / 5)
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL  # it had not come to its end
        if attempt % 2:  # otherwise the cells at work live on
            cut_power(ledger)
        assert kept <= finished()
        kept = finished()
    process = run_forked(*GRID)
    process.join()
    assert process.exitcode == 0 and len(table()) == len(finished()) == 25 and kept <= finished()
    assert "repeat" not in {what for what, _, _ in events(ledger)}
    owners = defaultdict(list)
    for _, name, pid in events(ledger):
        owners[name].append(pid)
    for pids in owners.values():  # no two at work on a cell at once
        assert len([pid for pid, _ in groupby(pids)]) == len(set(pids))
    assert max(len(set(pids)) for pids in owners.values()) > 1  # some were interrupted
    steps = Counter(name for what, name, _ in events(ledger) if what == "step")
    assert max(steps.values()) <= 4  # gone on with, not begun anew


def ended_by(number: int, ledger: Path, *options: object) -> int:
    """The exit status of a sweep that gets a signal when its first cell is at work."""
    process = run_forked(*options)
    wait_for(ledger, 2, process)
    os.kill(process.pid, number)
    process.join()
    return process.exitcode


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_sweep_leaves_no_process_and_goes_on(
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


def test_two_sweeps_at_once_share_the_cells(ledger: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAUSE", "0.05")
    both = [run_forked("--seed", *range(6), "--beta", *betas) for betas in ([1, 2], [2, 3])]
    for process in both:
        process.join()
        assert process.exitcode == 0
    assert len(table()) == 18
    assert Counter(what for what, _, _ in events(ledger)) == {"begin": 18, "step": 54, "end": 18}


def test_of_the_cells_with_one_reference_the_first_runs_alone(sweep: Sweep, ledger: Path) -> None:
    assert sweep("--model", "small", "big", "--seed", 0, 1, 2, "--jobs", 3) == 0
    models = {row["cell"]: row["model"] for row in table()}
    order = [(what, models[name]) for what, name, _ in events(ledger)]
    for model in ("small", "big"):
        mine = [what for what, other in order if other == model]
        assert mine[:6] == ["begin", "step", "step", "step", "end", "begin"]


def test_a_reference_whose_first_cell_fails_is_made_by_the_next(sweep: Sweep) -> None:
    assert sweep("--beta", 13, 1, "--jobs", 2) == 1 and len(table()) == 1


def variables() -> list[dict[str, str]]:
    found = [json.loads(path.read_text()) for path in Path("out/cells").glob("*/run.json")]
    return [record["variables"] for record in found]


def test_jobs_share_cores_and_devices(sweep: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    monkeypatch.setenv("PAUSE", "0.2")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: range(9), raising=False)
    assert sweep("--seed", 0, 1, 2, 3, "--jobs", 3) == 0
    assert {found["OMP_NUM_THREADS"] for found in variables()} == {"3"}
    assert {found["CUDA_VISIBLE_DEVICES"] for found in variables()} == {"3", "5"}
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert sweep("--seed", 4, "--jobs", 2) == 0
    assert {found["OMP_NUM_THREADS"] for found in variables()} == {"3", "1"}


def test_wandb_knows_the_group(sweep: Sweep, capsys: pytest.CaptureFixture[str]) -> None:
    assert sweep("--seed", 0, "--report_to", "tensorboard,wandb") == 0
    assert [found["WANDB_RUN_GROUP"] for found in variables()] == ["out"]
    assert sweep("--seed", 1, "--report_to", "wandb", "--print") == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("env WANDB_RUN_GROUP=out WANDB_NAME")


def test_a_printed_command_makes_the_cell(
    sweep: Sweep, ledger: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep("--beta", 1, 2, "--print")
    first, second = capsys.readouterr().out.splitlines()
    subprocess.run(shlex.split(first), check=True)
    sweep("--beta", 1, 2, "--print")
    output = capsys.readouterr()
    assert output.out.splitlines() == [second] and "1 of 2 cells" in output.err
    assert sweep("--beta", 1, 2) == 0 and len(table()) == 2
    assert Counter(what for what, _, _ in events(ledger)) == {"begin": 2, "step": 6, "end": 2}


RATES = ("--learning_rates", 0.1, 0.5, 7, "--check_steps", 4)


def test_each_method_gets_the_best_rate_for_itself_at_each_strength(
    sweep: Sweep, ledger: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grid = ("--loss", "jsd", "fkl", "--beta", 0.1, 0.4, "--seed", 5, 6)
    assert sweep(*grid, *RATES, "--print") == 0
    output = capsys.readouterr()
    assert "12 checks" in output.err and "8 of 8 cells" in output.err
    assert all("--seed=5" in line and "--max_steps=4" in line for line in output.out.splitlines())
    assert sweep(*grid, *RATES) == 0
    choices = json.loads(Path("out/learning_rates.json").read_text())
    assert len(choices) == 4
    best = {"0.1": 0.1, "0.4": 0.5}  # the stand-in's best rate is its beta
    checked = {"0.1": (0.02, 0.1, 0.5), "0.4": (0.1, 0.5)}  # beyond the smallest if it is the best
    for name, choice in choices.items():
        [beta] = [beta for beta in best if f"-beta{beta}-" in name]
        assert choice["learning_rate"] == best[beta] and not choice["at_edge"]
        losses = {str(rate): pytest.approx(abs(rate - float(beta))) for rate in checked[beta]}
        assert choice["losses"] == {**losses, "7": None}
    rows = table()
    assert len(rows) == 8
    assert all(float(row["learning_rate"]) == best[str(row["beta"])] for row in rows)
    for row in rows:
        [losses] = json.loads(row["learning_rate_check"]).values()
        assert losses["7"] is None
    before = len(events(ledger))
    assert sweep("--loss", "jsd", "--beta", 0.1, 0.4, "--seed", 5, 6, 7, *RATES) == 0
    assert len(table()) == 10 and len(events(ledger)) == before + 2 * 5


def test_rates_between_the_strengths_that_are_checked_lie_on_a_power_law(
    sweep: Sweep, ledger: Path
) -> None:
    grid = ("--beta", 0.1, 0.2, 0.8, "--check_betas", 0.1, 0.4)
    assert sweep(*grid, *RATES) == 0
    # The best rates are 0.1 at 0.1 and 0.5 at 0.4, which is no cell.
    slope = math.log(5) / math.log(4)
    rows = sorted(table(), key=lambda row: row["beta"])
    assert [row["beta"] for row in rows] == [0.1, 0.2, 0.8]
    for row in rows:
        expected = pytest.approx(0.1 * (row["beta"] / 0.1) ** slope, rel=5e-3)
        assert float(row["learning_rate"]) == expected
        behind = json.loads(row["learning_rate_check"])
        assert len(behind) == (1 if row["beta"] == 0.1 else 2)  # its own, or both
    before = events(ledger)
    assert sweep(*grid, *RATES) == 0 and events(ledger) == before


def test_a_killed_sweep_keeps_the_rates_that_it_had_chosen(
    ledger: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of the first method stand before the checks of the second have ended."""
    monkeypatch.setenv("PAUSE", "0.1")
    rates = ("--learning_rates", 0.05, 0.1, 0.5, "--check_steps", 4)  # none beyond is needed
    process = run_forked("--beta", 0.1, 0.11, *rates)
    wait_for(ledger, 3 * 6 + 3, process)
    process.kill()
    process.join()
    cut_power(ledger)
    [choice] = json.loads(Path("out/learning_rates.json").read_text()).values()
    assert choice["learning_rate"] == 0.1


def test_a_strength_that_is_checked_needs_no_other(
    sweep: Sweep, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--check_betas", 0.4, 13, *RATES)  # the stand-in fails at 13
    assert sweep("--beta", 0.4, "--seed", 5, 6, *options, "--print") == 0
    output = capsys.readouterr()
    assert "3 checks" in output.err and "2 of 2 cells" in output.err
    assert all("--beta=0.4" in line and "--seed=5" in line for line in output.out.splitlines())
    assert sweep("--beta", 0.2, 0.4, *options) == 1  # at 0.2 there is no rate without that at 13
    assert [(row["beta"], float(row["learning_rate"])) for row in table()] == [(0.4, 0.5)]


def test_a_method_without_a_rate_does_not_stop_the_rest(
    sweep: Sweep, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sweep("--beta", 0.4, 13, "--learning_rates", 8, 16, "--check_steps", 4) == 1
    error = capsys.readouterr().err
    assert "sigmoid-beta13-lr8-seed0" in error and "ValueError: thirteen is too much" in error
    assert len(table()) == 1  # the rates went down from 8 until one was too small
    [choice] = json.loads(Path("out/learning_rates.json").read_text()).values()
    assert choice["learning_rate"] == 0.5
    assert choice["losses"]["8"] is choice["losses"]["16"] is None


def test_a_method_that_diverges_at_every_rate_is_reported(
    sweep: Sweep, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sweep("--learning_rates", 1e6, 2e6, "--check_steps", 4) == 1
    assert "diverges at every learning rate (15625: inf, 31250: inf" in capsys.readouterr().err
    assert not Path("out/table.csv").exists()


def test_a_check_that_fails_otherwise_is_tried_again(sweep: Sweep, ledger: Path) -> None:
    for _ in range(2):
        assert sweep("--beta", 13, *RATES) == 1
    assert Counter(what for what, _, _ in events(ledger)) == {"begin": 6}


def test_printed_commands_come_to_the_cells_past_a_rate_that_diverges(
    sweep: Sweep, ledger: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grid = ("--beta", 4, "--learning_rates", 2, 4, 8, "--check_steps", 4, "--seed", 0, 1)
    for commands in (3, 2, 0):
        sweep(*grid, "--print")
        lines = capsys.readouterr().out.splitlines()
        assert len(lines) == commands and all("--output_dir" in line for line in lines)
        for line in lines:
            subprocess.run(shlex.split(line), check=False, stderr=subprocess.DEVNULL)
    assert sweep(*grid) == 0 and [float(row["learning_rate"]) for row in table()] == [4, 4]


WRONG = [
    (("--beta", 1, -1), "--beta must be a finite number above 0, got -1.0"),
    (("--loss", "jsd", "kl"), "no loss 'kl'; there are sigmoid"),
    (("--loss", "jsd", "hinge", "--alpha", 0.5), "--alpha 0.5: no loss of the grid takes it"),
    (("--loss", "skew_js", "--loss_args", '{"t": 0.3}', '{"s": 1}'), "no loss of the grid takes"),
    (("--loss_args", "t"), "--loss_args: a JSON object is expected, found 't'"),
    (("--seed", 0, "x"), "--seed: invalid int value: 'x'"),
    (("--seed",), "--seed: a value is expected"),
    (("--seeds", 0), "unknown option --seeds; did you mean --seed"),
    (("--jobs", 0), "--jobs must be at least 1"),
    (("--jobs", 1, 2), "unexpected argument '2'"),
    (("--resume_from_checkpoint", "last"), "a sweep goes on by itself"),
    (("--lr", 1, *RATES), "--learning_rate has no effect with --learning_rates"),
    (("--learning_rates", 0), "--learning_rates must be above 0"),
    (("--check_betas", -1, *RATES), "--check_betas must be above 0"),
    (("--check_betas", 0.1), "--check_betas has no effect without --learning_rates"),
]


@pytest.mark.parametrize(("options", "message"), WRONG, ids=lambda value: str(value)[:40])
def test_wrong_options_are_one_line_before_any_cell_starts(
    sweep: Sweep,
    ledger: Path,
    capsys: pytest.CaptureFixture[str],
    options: tuple[object, ...],
    message: str,
) -> None:
    assert sweep(*options) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("sweep.py: error: ") and message in line
    assert not events(ledger) and not Path("out").exists()


WRONG_FILES = [
    ("seed: [0, [1]]\n", "line 1: seed: a value, or a list of them, is expected, found a list"),
    ("loss: jsd\nseed:\n", "line 2: seed: a value, or a list of them, is expected, found nothing"),
    ("lose: jsd\n", "line 1: unknown option 'lose'; did you mean loss"),
]


@pytest.mark.parametrize(("text", "message"), WRONG_FILES)
def test_wrong_files_name_the_line(
    sweep: Sweep, tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, message: str
) -> None:
    (tmp_path / "grid.yaml").write_text(text)
    assert sweep("--config", "grid.yaml") == 2
    assert f"grid.yaml, {message}" in capsys.readouterr().err


def test_help_fits_a_screen(sweep: Sweep, capsys: pytest.CaptureFixture[str]) -> None:
    assert sweep("--help") == 0
    text = capsys.readouterr().out
    assert "a loss that takes no alpha is run once" in " ".join(text.split())
    assert "--learning_rates" in text and len(text.splitlines()) < 40
