"""Programs that are killed, starved of their caches and fed damaged files reach the same end."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import pytest

from tests.faults.faults import Kill
from tests.faults.programs import PROGRAMS
from tests.faults.trials import Bench, Trial, play_all, quick_plan, random_kills

QUICK = [name for name in PROGRAMS if name != "images, LoRA"]


@pytest.fixture(scope="module")
def trials(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Trial]]:
    """The trials of each program, two at a time."""
    by_program = defaultdict(list)
    bench = Bench(tmp_path_factory.mktemp("faults"))
    for trial in play_all(bench, dict.fromkeys(QUICK, quick_plan), jobs=2):
        by_program[trial.program].append(trial)
    return by_program


@pytest.mark.slow
@pytest.mark.parametrize("name", QUICK)
def test_faults_are_survived(name: str, trials: dict[str, list[Trial]]) -> None:
    failed = [f"{t.fault} ({t.where}): {t.failure}" for t in trials[name] if t.failure]
    assert len(trials[name]) >= 2 and not failed, "\n".join(failed)


def test_the_seed_decides_the_kills() -> None:
    first, again, other = (list(random_kills("train", 9, seed)) for seed in (1, 1, 2))
    assert first == again != other
    assert all(isinstance(kill, Kill) and -1 < kill.moment < 1 for kill in first)


def test_a_difference_is_found(tmp_path: Path) -> None:
    from tests.faults.comparison import differences

    for name, text in {"one": '{"loss": 1, "runtime": 2}', "other": '{"loss": 3}'}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.json").write_text(text)
    (tmp_path / "other" / ".left.json").write_text("{}")
    assert differences(tmp_path / "one", tmp_path / "one") == []
    assert differences(tmp_path / "one", tmp_path / "other") == [
        "left over .left.json",
        "metrics.json: .loss: '3', not '1'",
    ]
