"""The life of a run: one line for a mistake, a record of the start, a resumable end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fdpo import runs
from fdpo.cli.program import Run
from fdpo.runs.checkpoints import CheckpointError
from fdpo.runs.folder import REPORT_ERRORS
from tests.runs.damage import make_checkpoint

OPTIONS = {"loss": "jsd", "seed": 0}


def test_a_run_is_recorded_and_finished(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Run("train.py", tmp_path / "run", OPTIONS) as run:
        assert run.checkpoint is None and not run.folder.exists()
        run.start()
        assert runs.read_json(run.folder / runs.RECORD)["options"] == OPTIONS
        run.exit_if(False, step=3)
        run.finish({"reward": 1.5})
    assert runs.read_json(run.folder / runs.METRICS) == {"reward": 1.5}
    assert str(run.folder) in capsys.readouterr().out


@pytest.mark.parametrize("error", [ValueError("--beta is\nwrong"), FileNotFoundError(2, "no", "x")])
def test_a_mistake_in_the_set_up_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    with pytest.raises(SystemExit) as exit_, Run("train.py", tmp_path / "run", OPTIONS):
        raise error
    assert exit_.value.code == 2 and not (tmp_path / "run").exists()
    message = "--beta is wrong" if isinstance(error, ValueError) else "x: no"
    assert capsys.readouterr().err == f"train.py: error: {message}\n"


def test_a_mistake_in_the_set_up_leaves_no_folder(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    for folder in ("new/run", "kept/run"):
        with pytest.raises(SystemExit), Run("train.py", tmp_path / folder, OPTIONS) as run:
            run.folder.mkdir(parents=True)  # as a trainer does
            raise ValueError("--eval_tokens is wrong")
    assert [path.name for path in tmp_path.rglob("*")] == ["kept"]


def test_an_error_of_the_training_keeps_its_traceback(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="in training"):
        with Run("train.py", tmp_path, OPTIONS) as run:
            run.start()
            raise ValueError("in training")


def test_a_folder_with_a_run_is_refused_before_the_set_up(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs.prepare(tmp_path, OPTIONS)
    with pytest.raises(SystemExit) as exit_, Run("train.py", tmp_path, OPTIONS):
        raise AssertionError("not reached")
    assert exit_.value.code == 2 and "already holds a run" in capsys.readouterr().err
    with Run("train.py", tmp_path, OPTIONS, overwrite=True) as run:
        run.start()


def test_an_interrupted_run_exits_with_130_and_resumes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_, Run("train.py", tmp_path, OPTIONS) as run:
        run.start()
        make_checkpoint(tmp_path, 7)
        run.exit_if(True, step=7)
    assert exit_.value.code == 130
    assert "stopped at step 7; --resume_from_checkpoint last" in capsys.readouterr().out
    with Run("train.py", tmp_path, OPTIONS, resume="last") as run:
        assert run.checkpoint == str(tmp_path / "checkpoint-7")
        run.start()
    assert len(runs.read_json(tmp_path / runs.RECORD)["commands"]) == 2


def test_a_start_removes_the_leftovers_of_a_kill(tmp_path: Path) -> None:
    (tmp_path / ".checkpoint-7/checkpoint-7").mkdir(parents=True)
    with Run("train.py", tmp_path, OPTIONS) as run:
        run.start()
    assert [path.name for path in tmp_path.iterdir()] == [runs.RECORD]


def test_a_checkpoint_that_cannot_be_read_is_one_line_with_another_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs.prepare(tmp_path, OPTIONS)
    advice = [f"rm -r {tmp_path} and the same command start it again", "checkpoint-4 resumes"]
    make_checkpoint(tmp_path, 7)
    for line in advice:
        with pytest.raises(SystemExit) as exit_:
            with Run("train.py", tmp_path, OPTIONS, resume="last") as run:
                run.start()
                raise CheckpointError("checkpoint-7 cannot be read: KeyError: 'step'")
        error = capsys.readouterr().err
        assert exit_.value.code == 1 and error.count("\n") == 1 and line in error
        assert error.startswith("train.py: error: checkpoint-7 cannot be read: KeyError: 'step'; ")
        make_checkpoint(tmp_path, 4)


def test_ctrl_c_while_loading_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_, Run("train.py", tmp_path / "run", OPTIONS) as run:
        run.folder.mkdir()
        raise KeyboardInterrupt
    assert exit_.value.code == 130 and capsys.readouterr().err == "\ninterrupted\n"
    assert not run.folder.exists()


def test_a_report_that_cannot_be_noted_costs_no_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Run("train.py", tmp_path, OPTIONS) as run:
        run.start()
        (tmp_path / REPORT_ERRORS).mkdir()
        with run.reporting("plot"):
            raise ZeroDivisionError
        run.finish({"reward": 1})
    assert "without its plot" in capsys.readouterr().err
    assert runs.read_json(tmp_path / runs.METRICS)["missing"] == {"plot": "ZeroDivisionError: "}


def test_ctrl_c_exits_with_130(tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as exit_, Run("train.py", tmp_path, OPTIONS) as run:
        run.start()
        raise KeyboardInterrupt
    assert exit_.value.code == 130


def test_a_loss_that_is_not_finite_is_recorded(tmp_path: Path) -> None:
    with pytest.raises(FloatingPointError), Run("train.py", tmp_path, OPTIONS) as run:
        run.start()
        raise FloatingPointError("step 3: the loss of pair 1 is nan")
    assert (tmp_path / runs.NONFINITE).read_text() == "step 3: the loss of pair 1 is nan\n"


def test_a_failed_report_leaves_a_finished_run_that_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    metrics = {"steps": 3.0}
    with Run("train.py", tmp_path, OPTIONS) as run:
        run.start()
        with run.reporting("comparison"):
            raise RuntimeError("no room\nfor samples")
        with run.reporting("held-out pairs"):
            metrics["accuracy"] = 0.5
        run.finish(metrics)
    written = runs.read_json(tmp_path / runs.METRICS)
    reason = "RuntimeError: no room for samples"
    assert written == {"steps": 3.0, "accuracy": 0.5, "missing": {"comparison": reason}}
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(
        f"train.py: warning: the run continues without its comparison ({reason})"
    )
    assert "Traceback" in (tmp_path / REPORT_ERRORS).read_text()


def test_ctrl_c_ends_a_report(tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as exit_, Run("train.py", tmp_path, OPTIONS) as run:
        run.start()
        with run.reporting("comparison"):
            raise KeyboardInterrupt
    assert exit_.value.code == 130


def test_a_second_program_in_the_folder_is_told_so_and_waits_for_no_start(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fdpo.runs.locks.PATIENCE", 0.0)
    options: dict[str, Any] = {"repeatable": True}
    with Run("main.py", tmp_path / "data", OPTIONS, **options) as late:
        with Run("main.py", tmp_path / "data", OPTIONS, **options) as run:
            run.start()
            written = sorted(path.name for path in run.folder.iterdir())
            for attempt in (late.start, late.__enter__):
                with pytest.raises((SystemExit, ValueError)) as ended:
                    attempt()
                assert isinstance(ended.value, ValueError) or ended.value.args == (2,)
            assert "another program is at work in" in capsys.readouterr().err
            assert sorted(path.name for path in run.folder.iterdir()) == written == ["run.json"]
        late.resume = late._resumable_run()
        late.start()


def test_leftovers_of_a_kill_are_removed_and_do_not_block(tmp_path: Path) -> None:
    left = [".run.123.json", ".groups.77-0123abcd.jsonl", "pictures/.000001-0.77.png"]
    for name in left[:2]:
        (tmp_path / name).touch()
    with Run("main.py", tmp_path, OPTIONS, repeatable=True) as run:
        (tmp_path / "pictures").mkdir()
        (tmp_path / left[2]).touch()
        (tmp_path / "pictures/.hidden").touch()
        run.start()
    assert {path.name for path in tmp_path.rglob("*")} == {"run.json", "pictures", ".hidden"}
