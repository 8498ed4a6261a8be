"""Prompts that do not fit: counted whatever the rows are, and refused before the training."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from tests.conftest import sentence
from tests.programs.train_dpo.conftest import Run, refused, write

TEMPLATE = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
SMALL = ("--per_device_train_batch_size", 4, "--eval_num_prompts", 0, "--max_steps", 1)
SAMPLED = ("--per_device_train_batch_size", 4, "--eval_samples", 1, "--max_steps", 1)


@pytest.fixture
def chat_model(tiny_model: Path, tmp_path: Path) -> Path:
    """The tiny model with a chat template."""
    folder = tmp_path / "chat"
    folder.mkdir()
    for file in tiny_model.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    return folder


def text_row(prompt: str, i: int) -> dict[str, Any]:
    return {"prompt": prompt, "chosen": f" good {i}", "rejected": f" bad {i}"}


def implicit_text_row(prompt: str, i: int) -> dict[str, Any]:
    return {"chosen": f"{prompt}\n good {i}", "rejected": f"{prompt}\n bad {i}"}


def chat_row(prompt: str, i: int) -> dict[str, Any]:
    sides = {"chosen": f"good {i}", "rejected": f"bad {i}"}
    messages = {k: [{"role": "assistant", "content": text}] for k, text in sides.items()}
    return {"prompt": [{"role": "user", "content": prompt}], **messages}


def implicit_chat_row(prompt: str, i: int) -> dict[str, Any]:
    row = chat_row(prompt, i)
    start = row.pop("prompt")
    return {side: start + messages for side, messages in row.items()}


ROWS = [text_row, implicit_text_row, chat_row, implicit_chat_row]
Row = Callable[[str, int], dict[str, Any]]


def rows(make: Row, number: int, words: int, start: int = 0) -> list[dict[str, Any]]:
    return [make(sentence(start + i, words), start + i) for i in range(number)]


def data_folder(folder: Path, train: list[Any], test: list[Any]) -> Path:
    folder.mkdir()
    write(folder / "train.jsonl", train)
    write(folder / "test.jsonl", test)
    return folder


@pytest.mark.parametrize("make", ROWS)
def test_pairs_that_do_not_fit_are_counted(
    train: Run, chat_model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], make: Row
) -> None:
    long = rows(make, 3, 90), rows(make, 2, 90, start=40)
    data = data_folder(
        tmp_path / "data",
        [*rows(make, 5, 3, start=10), *long[0]],
        [*rows(make, 4, 3, start=30), *long[1]],
    )
    train("--model", chat_model, "--dataset", data, *SMALL, "--output_dir", "out")
    printed = capfd.readouterr()
    assert "dropped: 5 prompts too long; 5 to train on, 4 held out" in printed.out
    assert "prompts that fill --max_length 64 are too long" in printed.out
    assert "are left out" not in printed.err  # the trainer's own warning would say it twice
    assert len((tmp_path / "out/held_out_pairs.jsonl").read_text().splitlines()) == 4


@pytest.mark.parametrize("make", [text_row, chat_row])
def test_keep_end_trains_on_all(
    train: Run, chat_model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], make: Row
) -> None:
    data = data_folder(tmp_path / "data", rows(make, 4, 90), rows(make, 2, 90, start=40))
    options = ("--truncation_mode", "keep_end", *SMALL, "--output_dir", "out")
    train("--model", chat_model, "--dataset", data, *options)
    printed = capfd.readouterr()
    assert "dropped: none; 4 to train on, 2 held out" in printed.out
    assert "keep_end" not in printed.err


@pytest.mark.parametrize("side", ["train", "eval"])
@pytest.mark.parametrize("make", [text_row, implicit_chat_row])
def test_a_side_without_a_pair_that_fits_is_refused(
    train: Run,
    chat_model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    make: Row,
    side: str,
) -> None:
    sizes = (90, 3) if side == "train" else (3, 90)
    both = [rows(make, 4, size, start=20 * i) for i, size in enumerate(sizes)]
    data = data_folder(tmp_path / "data", *both)
    message = f"{side}_dataset: no pair is left, every prompt fills --max_length 64"
    options = ("--precompute_ref_log_probs", "true", *SMALL, "--output_dir", "out")
    refused(train, capsys, message, "--model", chat_model, "--dataset", data, *options)
    assert not (tmp_path / "out").exists()


def groups(number: int, words: int, start: int = 0) -> list[dict[str, Any]]:
    return [
        {"prompt": sentence(start + i, words), "completions": [" a", " b"], "scores": [1.0, 0.0]}
        for i in range(number)
    ]


def test_held_out_prompts_without_room_for_samples(
    train: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    long, short = groups(4, 35), groups(3, 3, start=20)
    only_long = data_folder(tmp_path / "long", short, long)
    message = (
        r"no held-out prompt leaves room for --eval_tokens 48 in the context of 64, "
        r"the shortest has \d+ tokens: lower --eval_tokens, .* --eval_num_prompts 0"
    )
    refused(train, capsys, message, "--dataset", only_long, *SAMPLED, "--output_dir", "out")
    assert not (tmp_path / "out").exists()
    some = data_folder(tmp_path / "some", groups(4, 3, start=40), [*long, *short])
    train("--dataset", some, *SAMPLED, "--output_dir", "out")
    line = "4 of 7 held-out prompts leave no room for --eval_tokens 48 in the context of 64"
    assert line in capsys.readouterr().out
    samples = [json.loads(row) for row in (tmp_path / "out/samples.jsonl").open()]
    assert {row["prompt"] for row in samples} == {group["prompt"] for group in short}


def test_prompts_of_a_file_without_room_for_samples(
    train: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write(tmp_path / "data.jsonl", groups(6, 3))
    (tmp_path / "prompts.txt").write_text(f"the film\n{sentence(1, 35)}\n")
    message = r"prompt 2 \(.*\) has \d+ tokens; with 48 new ones it exceeds .* context of 64"
    given = ("--dataset", data, "--eval_prompts", "prompts.txt", *SAMPLED)
    refused(train, capsys, message, *given, "--output_dir", "out")


@pytest.mark.parametrize("make", [chat_row, implicit_chat_row])
def test_held_out_conversations_are_sampled(
    train: Run, chat_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], make: Row
) -> None:
    held_out = rows(make, 3, 3, start=30)
    data = data_folder(tmp_path / "data", rows(make, 4, 3), [*held_out, make("a", 7)])
    options = (*SAMPLED, "--eval_tokens", 8, "--eval_num_prompts", 3, "--output_dir", "out")
    train("--model", chat_model, "--dataset", data, *options)
    samples = [json.loads(row) for row in (tmp_path / "out/samples.jsonl").open()]
    texts = [f"{sentence(30 + i, 3)}\n\n" for i in range(3)]
    assert [row["prompt"] for row in samples] == texts * 2
    assert re.search(r"reverse_kl +\S+ ± \S+", capsys.readouterr().out)
    assert "vader" in json.loads((tmp_path / "out/metrics.json").read_text())


def test_without_held_out_pairs_a_line_says_that_nothing_is_sampled(
    train: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write(tmp_path / "data.jsonl", groups(6, 3))
    train("--dataset", data, "--test_share", 0, *SAMPLED, "--output_dir", "out")
    assert "no pairs are held out, so no prompts are sampled" in capsys.readouterr().out


SCORERS = """
def broken(prompts, completions):
    return [float("nan") for _ in completions]
"""


def test_a_scorer_that_fails_does_so_before_the_training(
    train: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "own_scorers.py").write_text(SCORERS)
    monkeypatch.syspath_prepend(tmp_path)
    data = write(tmp_path / "data.jsonl", groups(6, 3))
    given = ("--dataset", data, *SAMPLED, "--scorers", "vader", "own_scorers:broken")
    refused(train, capsys, "scorer own_scorers:broken: score nan", *given, "--output_dir", "out")
    assert not (tmp_path / "out").exists()


def test_an_evaluation_that_fails_leaves_the_model_and_the_other_metrics(
    train: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr("fdpo.llm.evaluate.compare", fail)
    data = write(tmp_path / "data.jsonl", groups(6, 3))
    train("--dataset", data, *SAMPLED, "--output_dir", "out")
    metrics = json.loads((tmp_path / "out/metrics.json").read_text())
    assert metrics["steps"] == 1 and "pairs_accuracy" in metrics
    assert metrics["missing"] == {"comparison of samples": "RuntimeError: out of memory"}
    assert (tmp_path / "out/model.safetensors").exists() and (tmp_path / "out/log.jsonl").exists()
    assert "without its comparison of samples" in capsys.readouterr().err
