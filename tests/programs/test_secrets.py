"""A planted token is in no byte of anything that a program leaves or prints."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from fdpo.tasks import COMMANDS
from tests.conftest import sentence

TOKEN = "hf_PlantedInEveryOption"
KWARGS = json.dumps({"token": TOKEN})
SMALL = ("--max_steps", "2", "--save_steps", "1", "--logging_steps", "1", "--use_cpu")
TEXT = (
    *("--model", "MODEL", "--dataset", "pairs.jsonl", "--eval_num_prompts", "0"),
    *("--scorers", "vader", "--test_share", "0.2", *SMALL),
)
PROGRAMS = {
    "train_dpo/train.py": (*TEXT, "--report_to", "tensorboard"),
    "train_dpo/train.py --config secret.yaml": (*TEXT, "--save_only_model"),
    "train_dpo/sweep.py": (*TEXT, "--beta", "1", "--keep_checkpoints"),
    "train_dpo/sft.py": (
        "--model",
        "MODEL",
        "--dataset",
        "texts.jsonl",
        "--held_out",
        "20",
        "--context",
        "16",
        *SMALL,
    ),
}


def contents(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Yields the name and the bytes of every file, those of packed files too."""
    for path in folder.rglob("*"):
        if path.is_file():
            yield str(path), str(path).encode() + path.read_bytes()
            if zipfile.is_zipfile(path):
                with zipfile.ZipFile(path) as parts:
                    yield from ((f"{path}/{name}", parts.read(name)) for name in parts.namelist())


@pytest.mark.slow
@pytest.mark.parametrize("name", PROGRAMS)
def test_no_file_holds_a_token(
    name: str, tiny_model: Path, pair_rows: list[dict[str, str]], tmp_path: Path
) -> None:
    rows = {
        "pairs.jsonl": pair_rows,
        "texts.jsonl": [{"text": f"{i}{sentence(i, 30)}"} for i in range(90)],
    }
    for file, some in rows.items():
        (tmp_path / file).write_text("".join(json.dumps(row) + "\n" for row in some))
    inputs = tmp_path / "inputs"
    inputs.mkdir()
    program, *config = name.split()
    secrets = [
        "--hub_token",
        TOKEN,
        *(["--model_init_kwargs", KWARGS] if "sft" not in name else []),
    ]
    if config:
        (inputs / "secret.yaml").write_text(f"hub_token: {TOKEN}\nmodel_init_kwargs: {KWARGS}\n")
        secrets = ["--config", str(inputs / "secret.yaml")]
    words = [str(tiny_model) if word == "MODEL" else word for word in PROGRAMS[name]]
    done = subprocess.run(
        [sys.executable, str(COMMANDS / program), *words, *secrets, "--output_dir", "out"],
        cwd=tmp_path,
        env={**os.environ, "HOME": str(tmp_path), "FDPO_CACHE": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.glob("out/**/metrics.json"))
    found = [file for file, data in contents(tmp_path) if TOKEN.encode() in data]
    assert [file for file in found if not file.startswith(str(inputs))] == []
    assert TOKEN not in done.stdout + done.stderr
