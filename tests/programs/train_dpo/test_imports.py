"""Code is imported only for what the user names: no file of a run or a model has any imported."""

from __future__ import annotations

import importlib
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fdpo.llm.models import ModelSource
from fdpo.runs.folder import run_options
from fdpo.scorers import get_scorer

PLANTED = "open('ran', 'a').close()\nf = lambda u: u * u.log()\nf.__module__ = 'planted'\n"
LOSS = {"loss": "jsd", "beta": 0.1}
SMALL = ("--num_prompts", "2", "--samples", "2", "--max_new_tokens", "4", "--scorers", "vader")
Evaluate = Callable[..., None]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working folder, with a module that leaves the file ``ran`` where it is imported."""
    (tmp_path / "planted.py").write_text(PLANTED, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    yield tmp_path
    sys.modules.pop("planted", None)


@pytest.fixture
def evaluate(monkeypatch: pytest.MonkeyPatch) -> Evaluate:
    program = importlib.import_module("fdpo.programs.train_dpo.evaluate")

    def run(*options: str) -> None:
        monkeypatch.setattr(sys, "argv", ["evaluate.py", *options, *SMALL])
        program.main()

    return run


def make_run(folder: Path, model: Path, **options: Any) -> Path:
    """Makes the folder of a run with a model."""
    shutil.copytree(model, folder)
    record = {"options": {"model_name_or_path": str(model), **LOSS, **options}}
    (folder / "run.json").write_text(json.dumps(record), encoding="utf-8")
    return folder


def change(file: Path, **values: Any) -> None:
    config = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    file.write_text(json.dumps({**config, **values}), encoding="utf-8")


def test_a_runs_own_loss_is_imported_only_where_it_is_named_again(
    here: Path, tiny_model: Path, evaluate: Evaluate, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run(here / "run", tiny_model, loss="planted:f")
    with pytest.raises(SystemExit) as stop:
        evaluate("--model", "run")
    [line] = capsys.readouterr().err.splitlines()
    assert stop.value.code == 2 and line.endswith("only if you name it: --loss planted:f")
    assert not (here / "ran").exists() and "planted" not in sys.modules
    with pytest.raises(SystemExit):
        evaluate("--model", "run", "--loss", "jsd")
    assert "--loss jsd: the run was trained with planted:f" in capsys.readouterr().err
    evaluate("--model", "run", "--loss", "planted:f")
    assert (here / "ran").exists()


@pytest.mark.parametrize(
    "record",
    [{"loss": 3}, {"loss": "nothing"}, {"beta": "x"}, {"alpha": [1]}, {"model_name_or_path": 3}],
)
def test_wrong_records_are_one_line(
    record: dict[str, Any],
    here: Path,
    tiny_model: Path,
    evaluate: Evaluate,
    capsys: pytest.CaptureFixture[str],
) -> None:
    make_run(here / "run", tiny_model, **record)
    with pytest.raises(SystemExit) as stop:
        evaluate("--model", "run")
    assert stop.value.code == 2 and capsys.readouterr().err.count("\n") == 1
    for text in ("[]", '{"options": 3}', "[" * 99999):
        (here / "run/run.json").write_text(text, encoding="utf-8")
        with pytest.raises(ValueError, match=r"run.json: is no record of a run"):
            run_options(here / "run")


def remote(folder: Path) -> None:
    """Makes a folder's model one of its own code."""
    (folder / "code.py").write_text(PLANTED, encoding="utf-8")
    classes = {"AutoConfig": "code.C", "AutoModelForCausalLM": "code.M", "AutoTokenizer": "code.T"}
    classes["AutoModelForSequenceClassification"] = "code.M"
    change(folder / "config.json", auto_map=classes, model_type="own")
    change(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["code.T", None]})


def test_a_record_does_not_trust_code(
    here: Path, tiny_model: Path, evaluate: Evaluate, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(tiny_model, here / "base")
    remote(here / "base")
    make_run(here / "run", tiny_model, model_name_or_path="base", trust_remote_code=True)
    with pytest.raises(SystemExit) as stop:
        evaluate("--model", "run")
    assert stop.value.code == 2 and "trust_remote_code" in capsys.readouterr().err
    with pytest.raises(ValueError, match="scorer base: neither .*custom code"):
        get_scorer("base")  # without a question to the terminal
    assert not (here / "ran").exists()


def test_an_adapter_imports_nothing(here: Path, tiny_model: Path) -> None:
    from peft import LoraConfig, get_peft_model

    policy = get_peft_model(ModelSource(str(tiny_model)).model(), LoraConfig(r=1))
    policy.save_pretrained(here / "adapter")
    libraries = {"base_model_class": "f", "parent_library": "planted"}
    change(
        here / "adapter/adapter_config.json",
        base_model_name_or_path=str(tiny_model),
        auto_mapping=libraries,
        megatron_config={"a": 1},
        megatron_core="planted",
    )
    for load in (
        ModelSource("adapter").model,
        lambda: ModelSource("adapter").whole_model(type(policy.base_model.model).from_pretrained),
    ):
        with pytest.raises(ValueError, match="megatron_core"):
            load()
    change(here / "adapter/adapter_config.json", megatron_config=None)
    ModelSource("adapter").model()
    assert not (here / "ran").exists() and "planted" not in sys.modules
