"""Grids of options: their runs, their names, their table, and mistakes in them."""

from __future__ import annotations

import csv
import shlex
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from tests.cli.quick_sweep import RATES, Sweep, events, printed, table, variables


def test_a_run_for_each_combination_and_one_for_losses_without_alpha(
    sweep: Sweep, capsys: pytest.CaptureFixture[str]
) -> None:
    options = "--loss jsd alpha skew_js --alpha 0.3 .7 7e-1 --beta=1 --seed 0 --seed 1".split()
    assert sweep(*options, "--loss_args", '{"t": 0.3}', "--print") == 0
    runs = {tuple(word for word in words if "output_dir" not in word) for words in printed(capsys)}
    options = sorted(" ".join(words[:-1]) for words in runs)
    both = ("--seed=0", "--seed=1")
    assert options == sorted(
        [f"--loss=jsd --beta=1 {seed}" for seed in both]
        + [f"--loss=alpha --alpha={a} --beta=1 {seed}" for a in ("0.3", "0.7") for seed in both]
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
    assert not list(Path("out/runs").glob("*/checkpoint-*"))
    before = ledger.read_text()
    # However a value is written, and whatever only alters the output, the run is the same.
    again = ("--seed", 0, "--loss", "alpha", "jsd", "--alpha", "5e-1", "--beta", ".40", "1e-1")
    assert sweep(*again, "--logging_steps", 5) == 0 and ledger.read_text() == before
    assert sweep("--loss", "jsd", "--beta", 0.7, "--keep_checkpoints") == 0
    assert len(table()) == 5 and len(list(Path("out/runs").glob("*/checkpoint-*"))) == 3
    assert sweep("--loss", "jsd", "--beta", 0.7, "--eval_openings", 20) == 0
    assert len(table()) == 6  # metrics on other prompts are other metrics


def test_wandb_knows_the_group(sweep: Sweep, capsys: pytest.CaptureFixture[str]) -> None:
    assert sweep("--seed", 0, "--report_to", "tensorboard,wandb") == 0
    assert [run["WANDB_RUN_GROUP"] for run in variables()] == ["out"]
    assert sweep("--seed", 1, "--report_to", "wandb", "--print") == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("env WANDB_RUN_GROUP=out WANDB_NAME")


def test_a_printed_command_is_the_run(
    sweep: Sweep, ledger: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep("--beta", 1, 2, "--print")
    first, second = capsys.readouterr().out.splitlines()
    subprocess.run(shlex.split(first), check=True)
    sweep("--beta", 1, 2, "--print")
    output = capsys.readouterr()
    assert output.out.splitlines() == [second] and "1 of 2 runs" in output.err
    assert sweep("--beta", 1, 2) == 0 and len(table()) == 2
    assert Counter(what for what, _, _ in events(ledger)) == {"begin": 2, "step": 6, "end": 2}


WRONG = [
    (("--beta", 1, -1), "--beta must be a finite number above 0, got -1.0"),
    (("--loss", "jsd", "kl"), "unknown loss 'kl' (did you mean reverse_kl or"),
    (("--loss", "jsd", "hinge", "--alpha", 0.5), "--alpha 0.5: no loss of the grid takes it"),
    (("--loss", "skew_js", "--loss_args", '{"t": 0.3}', '{"s": 1}'), "no loss of the grid takes"),
    (("--loss_args", "t"), "--loss_args: a JSON object like '{\"t\": 0.3}' is expected, found 't'"),
    (("--seed", 0, "x"), "--seed: invalid int value: 'x'"),
    (("--seed",), "--seed: a value is expected"),
    (("--seeds", 0), "unknown option --seeds; did you mean --seed"),
    (("--jobs", 0), "--jobs must be at least 1"),
    (("--jobs", 1, 2), "unexpected argument '2'"),
    (("--resume_from_checkpoint", "last"), "a sweep resumes its runs by itself"),
    (("--lr", 1, *RATES), "--learning_rate has no effect with --learning_rates"),
    (("--learning_rates", 0), "--learning_rates must be a finite number above 0"),
    (("--check_betas", -1, *RATES), "--check_betas must be a finite number above 0"),
    (("--check_betas", 0.1), "--check_betas has no effect without --learning_rates"),
]


@pytest.mark.parametrize(("options", "message"), WRONG, ids=lambda value: str(value)[:40])
def test_wrong_options_are_one_line_before_any_run_starts(
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
