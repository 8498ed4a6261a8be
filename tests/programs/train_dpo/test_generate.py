"""The program that prints samples."""

import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from fdpo.llm.generation.scores import completion_log_probs
from fdpo.llm.generation.tokens import prompt_ids
from fdpo.programs.train_dpo import generate
from fdpo.runs.rows import read_rows
from fdpo.tasks.imdb import gpt2_from_scratch, train_tokenizer


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("model")
    tokenizer = train_tokenizer(["this film was good and that one bad."] * 9, 280)
    gpt2_from_scratch(tokenizer, width=8, layers=1, heads=1, context=32).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def run(monkeypatch: pytest.MonkeyPatch, *argv: str) -> None:
    monkeypatch.setattr(sys, "argv", ["generate.py", *argv])
    generate.main()


def test_samples_are_printed_and_written(
    model: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / "samples.jsonl"
    options = ["--model", model, "--max_new_tokens=9", "--samples=3", f"--output={file}"]
    run(monkeypatch, *options, "--prompt", "this film", "one")
    printed, rows = capsys.readouterr().out, read_rows(file)
    assert [row["prompt"] for row in rows] == ["this film"] * 3 + ["one"] * 3
    assert all(f"[{row['prompt']}]{row['text']}" in printed for row in rows)
    starts = prompt_ids(AutoTokenizer.from_pretrained(model), [row["prompt"] for row in rows])
    scored = completion_log_probs(
        AutoModelForCausalLM.from_pretrained(model), starts, [row["ids"] for row in rows]
    )
    written = torch.tensor([row["log_prob"] for row in rows])
    torch.testing.assert_close(scored.log_probs, written, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("--prompt", "a", "--num_prompts", "3"), "prompt and num_prompts exclude each other"),
        (("--prompt", "a", "--openings", "3"), "prompt and num_prompts exclude each other"),
        (("--prompts", "a.jsonl"), "a .txt file with a prompt a line is needed"),
        (("--prompts", "absent.txt"), "absent.txt: no such file"),
        (("--samples", "0"), "--samples must be at least 1"),
        (("--output", "."), "output .: is a folder, a file is needed"),
        (("--prompt", "a", "--max_new_tokens", "40"), "exceeds the model's context of 32"),
    ],
)
def test_wrong_input(
    model: str,
    argv: tuple[str, ...],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as stopped:
        run(monkeypatch, "--model", model, *argv)
    error = capsys.readouterr().err.strip().split("\n")[-1]
    assert stopped.value.code == 2 and error.startswith("generate.py: error: ") and message in error
