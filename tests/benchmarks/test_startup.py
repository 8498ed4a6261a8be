"""Start-up times: commands and limits."""

from __future__ import annotations

from pathlib import Path

from benchmarks import startup

ROOT = Path(__file__).parents[2]


def test_every_program_has_commands() -> None:
    commands = startup.commands()
    programs = [
        str(path.relative_to(ROOT))
        for folder in ("train_dpo", "dataset", "diffusion")
        for path in (ROOT / folder).glob("*.py")
    ]
    assert {*programs} == {name.split()[0] for name in commands if ".py" in name}
    assert all({f"{p} --help", f"{p} --not_an_option"} <= commands.keys() for p in programs)
    assert "train_dpo/sweep.py --print" in commands and "train_dpo/train.py --print" not in commands


def test_limits() -> None:
    assert startup.limit("import fdpo") == 1.3
    assert startup.limit("train_dpo/train.py --help") == 2.8
    assert startup.limit("train_dpo/sweep.py --print") == 2.8
    assert startup.limit("diffusion/train.py --help") == 1.4


def test_medians_over_their_limit_are_named() -> None:
    seconds = {"import torch": (1.0, 2.0, 1.0), "import fdpo": (1.2, 2.8, 1.2),
               "diffusion/train.py --help": (1.3, 4.0, 1.5)}  # fmt: skip
    rows = [
        {"round": number, "side": name, startup.SECONDS: values[number]}
        for number in range(3)
        for name, values in seconds.items()
    ]
    assert startup.over_limit(rows) == ["diffusion/train.py --help"]
    assert "| import fdpo | 1.20 | 1.20 (1.20 to 1.40) | 1.3 |" in startup.summary(rows)


def test_processor_time_is_that_of_the_process(tmp_path: Path) -> None:
    idle = startup.processor_seconds(["-c", "import time; time.sleep(1)"], str(tmp_path))
    assert 0 < idle < 1
