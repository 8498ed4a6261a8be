"""Parts of a job are computed once, whatever the number of processes and interruptions."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from fdpo.runs import distributed
from fdpo.runs.distributed import is_main_process, num_processes, rank, sharded

PARTS = list(range(7))


def file_of(folder: Path) -> Callable[[int], Path]:
    return lambda part: folder / f"{part}.txt"


def test_parts_that_are_done_are_skipped(tmp_path: Path) -> None:
    file, computed = file_of(tmp_path), []

    def compute(part: int) -> None:
        computed.append(part)
        file(part).write_text(str(part))

    file(2).touch()
    for _ in range(2):
        sharded(PARTS, compute, title="parts", done=lambda part: file(part).exists())
    assert computed == [0, 1, 3, 4, 5, 6]


def test_an_interrupted_job_resumes(tmp_path: Path) -> None:
    file, attempts = file_of(tmp_path), []

    def compute(part: int) -> None:
        attempts.append(part)
        if part == 3 and attempts.count(3) == 1:
            raise KeyboardInterrupt
        file(part).touch()

    def job() -> None:
        sharded(PARTS, compute, title="parts", done=lambda part: file(part).exists())

    with pytest.raises(KeyboardInterrupt):
        job()
    job()
    assert attempts == [0, 1, 2, 3, 3, 4, 5, 6]


@pytest.mark.parametrize("processes", [1, 2, 3, 9])
def test_processes_share_the_parts(monkeypatch: pytest.MonkeyPatch, processes: int) -> None:
    results = []
    for index in range(processes):
        state = SimpleNamespace(
            process_index=index, num_processes=processes, wait_for_everyone=lambda: None
        )
        monkeypatch.setattr(distributed, "partial_state", lambda state=state: state)
        results.append(sharded(PARTS, lambda part: part * part, title="squares"))
    assert sorted(value for shard in results for value in shard) == [part**2 for part in PARTS]
    assert max(map(len, results)) - min(map(len, results)) <= 1


def test_two_processes_of_torchrun_compute_each_part_once(tmp_path: Path) -> None:
    code = f"""if True:
        import sys
        from pathlib import Path
        from fdpo.runs.distributed import is_main_process, partial_state, sharded

        folder = Path({str(tmp_path)!r})

        def compute(part):
            with (folder / f"{{part}}.txt").open("a") as file:
                file.write(f"{{partial_state().process_index}}\\n")

        sharded(range(5), compute, title="parts", done=lambda p: (folder / f"{{p}}.txt").exists())
        assert len(list(folder.glob("*.txt"))) == 5  # nobody returns before all have finished
    """
    script = tmp_path / "job.py"
    script.write_text(code)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    root = str(Path(__file__).parents[2])
    environment = os.environ | {"PYTHONPATH": root, "OMP_NUM_THREADS": "1"}
    subprocess.run([*command, str(script)], env=environment, check=True, capture_output=True)
    written = [(tmp_path / f"{part}.txt").read_text().split() for part in range(5)]
    assert written == [["0"], ["1"], ["0"], ["1"], ["0"]]


def test_the_launcher_names_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert (rank(), num_processes(), is_main_process()) == (0, 1, True)
    monkeypatch.setenv("LOCAL_RANK", "-1")  # torch.distributed's word for "no launcher"
    assert is_main_process()
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert (rank(), num_processes(), is_main_process()) == (3, 4, False)
