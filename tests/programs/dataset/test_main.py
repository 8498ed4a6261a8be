"""The program that makes preference data: whole runs on a tiny model, and wrong input."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from datasets import DatasetDict, load_dataset
from huggingface_hub.utils import filter_repo_objects

from fdpo.cli import arguments
from fdpo.llm.generation.options import CompletionArguments
from fdpo.preferences.pairs import Group, make_pairs
from fdpo.preferences.schema import read_groups, read_pairs
from fdpo.programs.dataset import main
from fdpo.programs.dataset.options import DatasetArguments, SourceArguments
from fdpo.runs.rows import read_rows, write_rows
from fdpo.tasks.imdb import gpt2_from_scratch, train_tokenizer

ROOT = Path(__file__).resolve().parents[3]
TEXTS = [f"this {a} film was {b} and the plot {c} so." for a in "abc" for b in "xyz" for c in "mn"]

# Scores by a function of the text, and stops the run at call number STOP, if that is set.
SCORER = """
import os
calls = 0
def score(prompts, completions):
    global calls
    calls += 1
    if str(calls) == os.environ.get("STOP"):
        raise KeyboardInterrupt
    return [sum(map(ord, p + c)) % 97 / 10 for p, c in zip(prompts, completions)]
def broken(prompts, completions):
    return [float("nan") for _ in completions]
def constant(prompts, completions):
    return [1.0 for _ in completions]
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("model")
    tokenizer = train_tokenizer(TEXTS, 300)
    gpt2_from_scratch(tokenizer, width=8, layers=1, heads=1, context=64).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


HEAVY = ("datasets", "diffusers", "accelerate", "trl", "transformers.modeling_utils")

Run = Callable[..., None]
TEXT_OPTIONS = "model scorer prompts max_new_tokens generation_batch_size completions".split()


@pytest.fixture
def run(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs the program in an empty folder with a custom scorer; options as keywords."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "custom.py").write_text(SCORER)
    (tmp_path / "prompts.txt").write_text(
        "".join(f"{text[:12]} {i}\n" for i, text in enumerate(TEXTS))
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "custom", raising=False)
    small = {
        "model": model,
        "scorer": "custom:score",
        "prompts": "prompts.txt",
        "max_new_tokens": 5,
        "generation_batch_size": 16,
        "completions": 4,
        "output_dir": "out",
    }

    def command(**options: Any) -> None:
        merged = {name: value for name, value in (small | options).items() if value is not None}
        argv = [f"--{name}={value}" for name, value in merged.items()]
        monkeypatch.setattr(sys, "argv", ["main.py", *argv])
        main.main()

    return command


def loaded(folder: str, config: str | None = None) -> DatasetDict:
    return load_dataset(folder, config, cache_dir="cache")


def contents(folder: str) -> dict[str, str]:
    return {
        path.name: path.read_text() for path in Path(folder).iterdir() if path.name != "run.json"
    }


def test_the_folder_loads_and_its_card_tells_the_truth(run: Run) -> None:
    run(test_size=0.25)
    assert set(contents("out")) == {"README.md", "train.jsonl", "test.jsonl", "groups.jsonl"}
    pairs, groups = loaded("out"), loaded("out", "groups")["train"]
    prompts = Path("prompts.txt").read_text().split("\n")[:-1]
    assert groups["prompt"] == prompts
    made, counts = make_pairs(read_groups("out/groups.jsonl"), k=3, k_top=4)
    rows = [dict(row) for split in ("train", "test") for row in pairs[split]]
    key = json.dumps
    assert sorted(map(key, rows)) == sorted(key(pair.row()) for pair in made)
    held_out = set(pairs["test"]["prompt"])
    assert not held_out & set(pairs["train"]["prompt"])
    assert len(held_out) == round(0.25 * len({pair.prompt for pair in made}))
    assert {p for p, s in zip(prompts, groups["split"], strict=True) if s == "test"} == held_out
    card = dict(re.findall(r"^\| ([^|]+) \| ([\d,]+) \|$", contents("out")["README.md"], re.M))
    for name, count in counts.items():
        assert card[name.replace("_", " ")] == f"{count:,}"
    for group in groups:
        assert len(group["completions"]) == 4
        texts = [group["prompt"] + text for text in group["completions"]]
        assert group["scores"] == [sum(map(ord, text)) % 97 / 10 for text in texts]


def test_an_interrupted_command_resumes_to_the_same_result(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(output_dir="whole", prompts="model", num_prompts=20, prompt_words=1)
    monkeypatch.delitem(sys.modules, "custom")
    monkeypatch.setenv("STOP", "5")  # two calls check the scorer, with and without prompts
    with pytest.raises(SystemExit) as stopped:
        run(prompts="model", num_prompts=20, prompt_words=1)
    assert stopped.value.code == 130 and "the same command resumes" in capsys.readouterr().err
    parts = sorted(path.name for path in Path("out/parts").iterdir())
    assert parts == ["000000.jsonl", "000001.jsonl", "prompts.jsonl"]
    monkeypatch.setenv("STOP", "")
    monkeypatch.setattr("fdpo.llm.generation.prompts.sample_prompts", None)  # not sampled again
    run(prompts="model", num_prompts=20, prompt_words=1)
    whole = contents("whole")
    assert contents("out") == whole | {"README.md": whole["README.md"].replace("# whole", "# out")}


def test_a_finished_folder_is_left_as_it_is(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    run()
    before = contents("out")
    run()
    assert contents("out") == before and "was complete already" in capsys.readouterr().out
    for change in ({"seed": 1}, {"k": 2}, {"scorer": "vader"}):
        with pytest.raises(SystemExit) as stopped:
            run(**change)
        message = capsys.readouterr().err
        assert stopped.value.code == 2 and next(iter(change)) in message
    assert contents("out") == before


def test_the_seed_decides(run: Run) -> None:
    run(output_dir="a", seed=1)
    run(output_dir="b", seed=1)
    run(output_dir="c", seed=2)
    a, b, c = (read_rows(f"{name}/groups.jsonl") for name in "abc")
    assert a == b != c


def test_a_new_data_set_in_a_folder_is_not_loaded_from_a_cache(run: Run) -> None:
    for seed in (1, 2):
        run(seed=seed)
        pairs = read_pairs("out/train.jsonl") + read_pairs("out/test.jsonl")
        splits = loaded("out")
        assert [*splits["train"], *splits["test"]] == [pair.row() for pair in pairs]
        assert loaded("out", "groups")["train"].to_list() == read_rows("out/groups.jsonl")
        shutil.rmtree("out")


def test_diverse_beams_differ_in_their_first_token(run: Run) -> None:
    run(method="diverse_beams", diversity=100, no_repeat_ngram_size=2)
    groups = read_groups("out/groups.jsonl")
    assert all(len(set(group.completions)) == 4 for group in groups)


def test_prompts_from_texts(run: Run) -> None:
    write_rows(
        "texts.jsonl.gz", [{"text": f"<br />One{i} two.<br /><br />Three"} for i in range(9)]
    )
    run(prompts="texts.jsonl.gz", prompt_words=2, num_prompts=4)
    prompts = {group.prompt for group in read_groups("out/groups.jsonl")}
    assert len(prompts) == 4 and prompts < {f"One{i} two." for i in range(9)}
    run(prompts="texts.jsonl.gz", prompt_words=0, output_dir="sentences")
    sentences = {group.prompt for group in read_groups("sentences/groups.jsonl")}
    assert sentences == {f"One{i} two" for i in range(9)}


def test_scores_that_exist(run: Run) -> None:
    groups = [Group(f"p{i}", ["a", "b", "c"], [i, 0.5, 0.5], [False] * 3) for i in range(20)]
    write_rows("scored.jsonl", [group.row() for group in groups])
    unset = dict.fromkeys([*TEXT_OPTIONS, "output_dir"])
    run(groups="scored.jsonl", rule="all", test_size=0, **unset)
    assert set(contents("runs/dataset-scored")) == {"README.md", "train.jsonl", "groups.jsonl"}
    assert read_pairs("runs/dataset-scored/train.jsonl") == make_pairs(groups, "all")[0]
    assert set(loaded("runs/dataset-scored")) == {"train"}


def test_real_scores(run: Run, data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(groups=data_dir / "gpt2_imdb_scored/scored_500.jsonl.gz", **dict.fromkeys(TEXT_OPTIONS))
    assert "2,926 pairs made of 2,960 candidates of 500 groups" in capsys.readouterr().out
    assert len(loaded("out")["train"]) + len(loaded("out")["test"]) == 2926
    assert len(loaded("out", "groups")["train"]) == 495


WRONG = [
    ({"scorer": "nothing"}, "scorer nothing: neither vader"),
    ({"scorer": "custom:absent"}, "custom has no 'absent'"),
    ({"scorer": "custom:broken"}, "custom:broken: score nan for"),
    ({"model": "./absent"}, "model ./absent: no such folder"),
    ({"model": "."}, "a folder without config.json is no model"),
    ({"prompts": "absent.txt"}, "absent.txt: no such file"),
    ({"prompts": "empty.txt"}, "empty.txt: holds 0 distinct prompts"),
    ({"prompts": "one.txt"}, "--test_size 0.1: 1 prompt cannot be split"),
    ({"prompts": "model", "num_prompts": 1}, "--test_size 0.1: 1 prompt cannot be split"),
    ({"prompts": "texts.jsonl"}, "texts.jsonl, row 2: no column text; found body"),
    ({"prompts": "no/such-data"}, "prompts no/such-data: neither a file"),
    ({"num_prompts": 99}, "holds 18 distinct prompts, but 99 are needed"),
    ({"num_prompts": 0}, "num_prompts must be at least 1, got 0"),
    ({"prompt_words": 3}, "prompt_words has no effect on the prompts of a .txt file"),
    ({"max_new_tokens": 60}, "exceeds the model's context of 64"),
    ({"completions": 1}, "completions must be at least 2"),
    ({"method": "beams"}, "method"),
    ({"diversity": 2}, "diversity has no effect with method sample"),
    ({"method": "diverse_beams", "temperature": 2}, "temperature has no effect with method"),
    ({"rule": "worst"}, "unknown rank rule 'worst'"),
    ({"k": 0}, "--k must be at least 1"),
    ({"test_size": 1}, "--test_size must be in [0, 1)"),
    ({"min_gap": -1}, "--min_gap must be at least 0"),
    ({"groups": "scored.jsonl"}, "no effect with --groups, whose scores exist: --model, --prompts"),
    ({"output_dir": "full"}, "--output_dir full holds something else"),
]


@pytest.mark.parametrize(("options", "message"), WRONG)
def test_wrong_input(
    run: Run, options: dict[str, Any], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """One clear line, status 2, and no folder left behind."""
    Path("empty.txt").write_text("\n")
    Path("one.txt").write_text("this film\n")
    Path("texts.jsonl").write_text('{"text": "a b c d e f g h i"}\n{"body": ""}\n')
    Path("full").mkdir()
    Path("full/thesis.tex").write_text("")
    with pytest.raises(SystemExit) as stopped:
        run(**options)
    error = capsys.readouterr().err.strip().split("\n")[-1]
    assert stopped.value.code == 2 and error.startswith("main.py: error: ") and message in error
    assert not Path("out").exists() and [p.name for p in Path("full").iterdir()] == ["thesis.tex"]


def test_scores_that_leave_no_pair_are_one_line_and_keep_the_work(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        run(scorer="custom:constant")
    error = capsys.readouterr().err.strip().split("\n")[-1]
    assert stopped.value.code == 2 and "no pair is left" in error and "equal scores" in error
    assert list(Path("out/parts").iterdir())


WRONG_GROUPS = [
    ('{"prompt": "p", "completions": ["a"], "scores": [1]}', "row 1: 1 completions; a group needs"),
    ('{"prompt": "p", "completions": ["a", "b"], "scores": [1, NaN]}', "row 1: scores[1] is nan"),
    ('{"prompt": "p", "completions": ["a", "b"], "scores": [1, 1]}', "no pair is left"),
    ('{"prompt": "p", "answers": ["a", "b"], "rm_scores": [1, 2]}', "no answer begins with its"),
    ('{"prompt": "p"', "row 1: not JSON"),
    ("", "empty file"),
]


@pytest.mark.parametrize(("content", "message"), WRONG_GROUPS)
def test_wrong_groups(
    run: Run, content: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("g.jsonl").write_text(content)
    with pytest.raises(SystemExit) as stopped:
        run(groups="g.jsonl", **dict.fromkeys(TEXT_OPTIONS))
    error = capsys.readouterr().err
    assert stopped.value.code == 2 and "g.jsonl" in error and message in error
    assert not Path("out").exists()


def test_a_single_group_cannot_be_split(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    Path("g.jsonl").write_text('{"prompt": "p", "completions": ["a", "b"], "scores": [1, 0]}')
    with pytest.raises(SystemExit) as stopped:
        run(groups="g.jsonl", **dict.fromkeys(TEXT_OPTIONS))
    assert stopped.value.code == 2 and "cannot split 1 prompt(s)" in capsys.readouterr().err
    assert not Path("out").exists()


def test_the_preset_may_choose_the_modality(
    run: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("image.yaml").write_text("modality: image\nnum_groups: 0\n")
    cases: list[tuple[dict[str, object], str]] = [
        ({}, "unknown option --max_new_tokens"),
        (dict.fromkeys(TEXT_OPTIONS), "num_groups must be at least 1, got 0"),
        ({"modality": "text"}, "image.yaml, line 2: unknown option 'num_groups'"),
        ({"modality": "sound"}, "--modality: invalid choice: 'sound'"),
    ]
    for options, message in cases:
        with pytest.raises(SystemExit) as stopped:
            run(config="image.yaml", **options)
        assert stopped.value.code == 2 and message in capsys.readouterr().err


@pytest.mark.parametrize(("modality", "other"), [("text", "diffusion"), ("image", "llm")])
def test_help_loads_no_model_and_no_other_modality(modality: str, other: str) -> None:
    script = (
        "import sys; from fdpo.programs.dataset.main import main; sys.argv[0] = 'main.py'\n"
        "try: main()\n"
        f"finally: print(*(m for m in sys.modules if m in {HEAVY} or 'fdpo.{other}' in m))"
    )
    result = subprocess.run(
        [sys.executable, "-c", script, "--modality", modality, "--help"],
        cwd=ROOT, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    lines = result.stdout.splitlines()
    assert result.returncode == 0 and lines[0].startswith("usage: main.py") and lines[-1] == ""


def test_upload(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, dict[str, Any]]] = []

    class Hub:
        def create_repo(self, name: str, **options: Any) -> None:
            calls.append((name, options))

        def upload_folder(self, **options: Any) -> None:
            calls.append((options.pop("repo_id"), options))

    monkeypatch.setattr("huggingface_hub.HfApi", Hub)
    run(push_to_hub="me/pairs")
    (created, creation), (uploaded, upload) = calls
    assert created == uploaded == "me/pairs"
    assert creation["repo_type"] == upload["repo_type"] == "dataset"
    assert upload["folder_path"] == Path("out")
    names = ["README.md", "train.jsonl", "parts/0.jsonl", ".train.1.jsonl", "pictures/.1.2.png"]
    kept = filter_repo_objects(
        [*names, "pictures/1.png", "run.json"],
        allow_patterns=upload["allow_patterns"],
        ignore_patterns=upload["ignore_patterns"],
    )
    assert list(kept) == ["README.md", "train.jsonl", "pictures/1.png"]


def test_the_preset_is_slic_hf() -> None:
    preset = str(ROOT / "fdpo/programs/configs/dataset/imdb.yaml")
    source, method, args = arguments.parse(
        (SourceArguments, CompletionArguments, DatasetArguments),
        ["--config", preset],
        program="main.py",
    )
    assert (source.model, source.scorer) == ("lvwerra/gpt2-imdb", "lvwerra/distilbert-imdb")
    assert source.scorer_logit and source.prompt_words == 0
    assert (method.method, method.completions, method.max_new_tokens) == ("diverse_beams", 6, 256)
    assert (args.rule, args.k, args.k_top) == ("top_bottom", 3, 4)


@pytest.mark.slow
def test_two_processes_give_what_one_gives(run: Run, model: str) -> None:
    run(output_dir="one", prompts="model", num_prompts=12, prompt_words=1)
    argv = [
        sys.executable,
        *"-m torch.distributed.run --nproc_per_node 2 --standalone".split(),
        str(ROOT / "dataset/main.py"),
        *f"--model {model} --scorer custom:score --prompts model --prompt_words 1".split(),
        *"--num_prompts 12".split(),
        *"--max_new_tokens 5 --generation_batch_size 16 --completions 4 --output_dir two".split(),
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    subprocess.run(argv, check=True, env=environment, timeout=600)
    one, two = contents("one"), contents("two")
    assert two == one | {"README.md": one["README.md"].replace("# one", "# two")}
