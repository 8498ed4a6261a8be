"""The revision and remote code that a user asks for reach everything that a program loads."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import GPT2LMHeadModel

from fdpo.llm import models

LOADERS = (
    models.AutoConfig, models.AutoTokenizer, models.AutoModelForCausalLM, GPT2LMHeadModel,
)  # fmt: skip
Calls = list[tuple[str, Any, Any]]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """The loader, revision and trust of each model, configuration and tokenizer that is loaded."""
    recorded: Calls = []

    def recording(loader: Any) -> Callable[..., Any]:
        original = loader.from_pretrained

        def load(*args: Any, **options: Any) -> Any:
            asked = options.get("revision"), options.get("trust_remote_code")
            recorded.append((loader.__name__, *asked))
            return original(*args, **options)

        return load

    for loader in LOADERS:
        monkeypatch.setattr(loader, "from_pretrained", recording(loader))
    return recorded


def test_everything_is_loaded_as_asked(
    tiny_model: Path,
    pair_rows: list[dict[str, str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    calls: Calls,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pair_rows))
    small = "--scorers vader --use_cpu --max_steps 1 --eval_samples 1 --eval_tokens 4"
    asked = "--model_revision v2 --trust_remote_code true"
    argv = f"train.py --model {tiny_model} --dataset pairs.jsonl --output_dir out {small} {asked}"
    monkeypatch.setattr("sys.argv", argv.split())
    importlib.import_module("fdpo.programs.train_dpo.train").main()
    assert {(loader.__name__, "v2", True) for loader in LOADERS} <= set(calls)
    # TRL reads the architecture from the configuration of the main branch.
    assert {call for call in calls if call[1:] != ("v2", True)} <= {("AutoConfig", None, True)}
    calls.clear()
    argv = "evaluate.py --model out --num_prompts 2 --samples 1 --max_new_tokens 4 --scorers vader"
    for trust in (False, True):  # which a run folder does not decide
        given = [*argv.split(), "--trust_remote_code", str(trust)]
        monkeypatch.setattr("sys.argv", given)
        importlib.import_module("fdpo.programs.train_dpo.evaluate").main()
        assert ("AutoModelForCausalLM", "v2", trust) in calls
        assert ("AutoTokenizer", "v2", trust) in calls
        assert trust or not any(call[2] for call in calls)


def test_the_models_own_completions_are_those_of_the_revision(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    program = importlib.import_module("fdpo.programs.train_dpo.train")
    commands: list[list[str]] = []
    monkeypatch.setattr(program, "run_first", lambda command, target: commands.append(command))
    plain = program.default_groups(models.ModelSource("a/b", "main"))
    other = program.default_groups(models.ModelSource("a/b", "refs/pr/1", trust_remote_code=True))
    assert (plain, other) == (
        "runs/dataset-b/groups.jsonl", "runs/dataset-b-refs_pr_1/groups.jsonl",
    )  # fmt: skip
    asked = ["--model", "a/b", "--model_revision", "refs/pr/1", "--trust_remote_code", "true"]
    assert commands[0][2:5] == [*asked[:2], "--output_dir"] and commands[1][2:8] == asked
