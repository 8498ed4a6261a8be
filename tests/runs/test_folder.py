"""A folder holds one run, and a resumed run is the same run."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fdpo import runs
from fdpo.runs import folder as run_folder

CONFIG = {"loss": "alpha", "alpha": 0.5, "seed": 3, "logging_steps": 10, "output_dir": "x"}


def files_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def make_checkpoint(folder: Path, step: int, complete: bool = True) -> Path:
    path = folder / f"checkpoint-{step}"
    path.mkdir(parents=True)
    (path / ("trainer_state.json" if complete else "model.safetensors")).touch()
    return path


def test_prepare_records_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["train.py", "--loss", "alpha", "--hub_token", "secret"])
    folder = runs.prepare(tmp_path / "deep" / "run", {**CONFIG, "hub_token": "secret"})
    record = runs.read_json(folder / runs.RECORD)
    assert record["options"] == CONFIG and record["seed"] == 3
    assert record["commands"] == ["train.py --loss alpha --hub_token ***"]
    assert record["versions"]["torch"] == torch.__version__.split("+")[0]
    assert "secret" not in (folder / runs.RECORD).read_text()


@pytest.mark.parametrize("finished", [False, True])
def test_a_folder_with_a_run_is_refused(tmp_path: Path, finished: bool) -> None:
    runs.prepare(tmp_path, CONFIG)
    if finished:
        runs.write_json(tmp_path / runs.METRICS, {"reward": 1.0})
    state = r"\(finished\)" if finished else r"\(unfinished\)"
    message = f"already holds a run {state}: .*--output_dir.*--resume_from_checkpoint last"
    with pytest.raises(ValueError, match=message):
        runs.prepare(tmp_path, CONFIG)


def test_a_file_is_no_run_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="--output_dir .*file: is a file"):
        runs.prepare(tmp_path / "file", CONFIG)


def test_a_folder_with_other_things_is_accepted(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    runs.prepare(tmp_path, CONFIG)
    assert files_in(tmp_path) == ["notes.txt", runs.RECORD]


def test_resuming_keeps_every_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for attempt, resume in (("first", None), ("second", "last"), ("third", "last")):
        monkeypatch.setattr(sys, "argv", [attempt])
        runs.prepare(tmp_path, CONFIG, resume=resume)
    assert runs.read_json(tmp_path / runs.RECORD)["commands"] == ["first", "second", "third"]


def test_a_resumed_run_is_unfinished_until_its_own_metrics(tmp_path: Path) -> None:
    runs.prepare(tmp_path, CONFIG)
    make_checkpoint(tmp_path, 5)
    for name in (runs.METRICS, runs.NONFINITE, run_folder.REPORT_ERRORS):
        (tmp_path / name).touch()
    runs.prepare(tmp_path, CONFIG, resume="last")
    assert files_in(tmp_path) == ["checkpoint-5", runs.RECORD]


def test_resuming_with_other_options_names_them(tmp_path: Path) -> None:
    runs.prepare(tmp_path, CONFIG)
    changed = {**CONFIG, "alpha": 0.7, "seed": 4, "logging_steps": 1}
    with pytest.raises(ValueError, match=r"other options \(alpha 0.5 -> 0.7, seed 3 -> 4\)"):
        runs.prepare(tmp_path, changed, resume="last")
    assert runs.read_json(tmp_path / runs.RECORD)["options"] == CONFIG


CHANGEABLE = (
    "logging_steps save_steps eval_steps hub_model_id report_to dataloader_num_workers "
    "checkpointing_steps checkpoints_total_limit"
)

FIXED = (
    "beta logits_to_keep learning_rate max_steps dataloader_drop_last dataset_name fp16 "
    "gradient_checkpointing"
)


@pytest.mark.parametrize("name", CHANGEABLE.split() + FIXED.split())
def test_only_what_does_not_change_the_weights_may_change(tmp_path: Path, name: str) -> None:
    runs.prepare(tmp_path, {name: 1})
    if name in CHANGEABLE.split():
        runs.prepare(tmp_path, {name: 2}, resume="last")
    else:
        with pytest.raises(ValueError, match=f"{name} 1 -> 2"):
            runs.prepare(tmp_path, {name: 2}, resume="last")


@pytest.mark.parametrize("name", run_folder.LENGTHS)
def test_only_a_finished_run_is_extended(tmp_path: Path, name: str) -> None:
    runs.prepare(tmp_path, {name: 4, "seed": 0})
    with pytest.raises(ValueError, match=f"{name} 4 -> 6"):
        runs.prepare(tmp_path, {name: 6, "seed": 0}, resume="last")
    for value in (3, -1):
        runs.write_json(tmp_path / runs.METRICS, {})
        with pytest.raises(ValueError, match=f"{name} 4 -> {value}"):
            runs.prepare(tmp_path, {name: value, "seed": 0}, resume="last")
    runs.prepare(tmp_path, {name: 6, "seed": 0}, resume="last")
    assert runs.run_options(tmp_path)[name] == 6


def test_an_infinite_option_is_the_same_when_resumed(tmp_path: Path) -> None:
    """Strict JSON has null for it; records of version 0.2 have Infinity."""
    options = {"tail": float("inf")}
    runs.prepare(tmp_path, options)
    runs.prepare(tmp_path, options, resume="last")
    assert runs.run_options(tmp_path) == {"tail": None}
    record = (tmp_path / runs.RECORD).read_text()
    (tmp_path / runs.RECORD).write_text(record.replace('"tail": null', '"tail": Infinity'))
    runs.prepare(tmp_path, options, resume="last")


def test_a_record_with_the_old_name_of_an_option_is_resumed(tmp_path: Path) -> None:
    runs.prepare(tmp_path, {"check_pictures": True})
    aliases = {"check_pictures": "check_images"}
    with pytest.raises(ValueError, match="check_images True -> False"):
        runs.prepare(tmp_path, {"check_images": False}, resume="last", aliases=aliases)
    runs.prepare(tmp_path, {"check_images": True}, resume="last", aliases=aliases)
    assert runs.read_json(tmp_path / runs.RECORD)["options"] == {"check_images": True}


def test_overwriting_removes_the_run_and_nothing_else(tmp_path: Path) -> None:
    runs.prepare(tmp_path, CONFIG)
    make_checkpoint(tmp_path, 5)
    runs.write_json(tmp_path / runs.METRICS, {})
    (tmp_path / "notes.txt").touch()
    runs.prepare(tmp_path, {**CONFIG, "seed": 9}, overwrite=True)
    assert files_in(tmp_path) == ["notes.txt", runs.RECORD]
    record = runs.read_json(tmp_path / runs.RECORD)
    assert record["seed"] == 9 and len(record["commands"]) == 1


def test_only_the_first_process_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs.prepare(tmp_path / "a", CONFIG)
    monkeypatch.setenv("RANK", "1")
    runs.prepare(tmp_path / "a", {"other": 1})
    runs.prepare(tmp_path / "b", CONFIG)
    assert runs.read_json(tmp_path / "a" / runs.RECORD)["options"] == CONFIG
    assert not (tmp_path / "b").exists() and not runs.is_main_process()


def test_git_commit_is_that_of_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def git(*arguments: str) -> str:
        settings = ("-c", "user.name=n", "-c", "user.email=e@example.org")
        command = ["git", *settings, *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True).stdout.strip()

    (tmp_path / "runs.py").write_text("")
    monkeypatch.setattr(run_folder, "__file__", str(tmp_path / "runs.py"))
    git("init")
    git("commit", "--allow-empty", "-m", "a repository that does not hold the file")
    assert runs.git_commit() is None
    (tmp_path / "results").mkdir()
    (tmp_path / "results/table.csv").write_text("")
    git("add", "runs.py", "results")
    git("commit", "-m", "now it does")
    assert runs.git_commit() == git("rev-parse", "HEAD") != ""
    (tmp_path / "results/table.csv").write_text("a result, which is no change of the program")
    assert runs.git_commit() == git("rev-parse", "HEAD")
    (tmp_path / "runs.py").write_text("changed")
    assert runs.git_commit() == git("rev-parse", "HEAD") + "-dirty"
