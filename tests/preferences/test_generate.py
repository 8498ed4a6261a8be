"""Generation of preference data: parts that are shared, resumed and checked, for any modality."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from fdpo.preferences.generate import Completion, generate_groups, image_scorer, make_dataset
from fdpo.preferences.pairs import Group, PairingConfig, make_pairs
from fdpo.preferences.schema import read_groups, read_pairs

PROMPTS = ["ccc", "a", "bb", "dddd", ""]
PARTS = [[4, 1], [2, 0], [3]]


def score(prompts: Sequence[str], texts: Sequence[str]) -> list[float]:
    return [
        float(len(prompt) + 10 * len(text)) for prompt, text in zip(prompts, texts, strict=True)
    ]


class Model:
    """Completes prompts, and records its calls."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, list[str]]] = []

    def __call__(self, part: int, prompts: Sequence[str]) -> list[list[Completion]]:
        self.calls.append((part, list(prompts)))
        return [
            [Completion(f"{prompt}{part}", [part]), Completion(f"{prompt}!!", [part], True)]
            for prompt in prompts
        ]


def expected() -> list[Group]:
    part = {index: number for number, indices in enumerate(PARTS) for index in indices}
    texts = [[f"{prompt}{part[i]}", f"{prompt}!!"] for i, prompt in enumerate(PROMPTS)]
    return [
        Group(prompt, row, score([prompt] * 2, row), [False, True], token_ids=[[part[i]]] * 2)
        for i, (prompt, row) in enumerate(zip(PROMPTS, texts, strict=True))
    ]


def test_groups_are_in_the_order_of_the_prompts(tmp_path: Path) -> None:
    model = Model()
    assert generate_groups(tmp_path, PROMPTS, model, score, PARTS) == expected()
    assert model.calls == [(0, ["", "a"]), (1, ["bb", "ccc"]), (2, ["dddd"])]
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["000000.jsonl", "000001.jsonl", "000002.jsonl"]


def test_parts_that_exist_are_not_completed_again(tmp_path: Path) -> None:
    generate_groups(tmp_path, PROMPTS, Model(), score, PARTS)
    (tmp_path / "000001.jsonl").unlink()
    model = Model()
    assert generate_groups(tmp_path, PROMPTS, model, score, PARTS) == expected()
    assert model.calls == [(1, ["bb", "ccc"])]


@pytest.mark.parametrize("damage", ["", '{"prompt": "bb"}\n', "[1]\n[2]\n", '{"prompt": "b'])
def test_damaged_parts_are_made_again_with_one_line(tmp_path: Path, damage: str) -> None:
    generate_groups(tmp_path, PROMPTS, Model(), score, PARTS)
    (tmp_path / "000001.jsonl").write_text(damage)
    model = Model()
    with pytest.warns(UserWarning, match="000001.jsonl is damaged and made again") as notes:
        assert generate_groups(tmp_path, PROMPTS, model, score, PARTS) == expected()
    assert model.calls == [(1, ["bb", "ccc"])] and len(notes) == 1


def test_a_part_that_lost_its_last_row_is_made_again(tmp_path: Path) -> None:
    generate_groups(tmp_path, PROMPTS, Model(), score, PARTS)
    file = tmp_path / "000001.jsonl"
    file.write_text(file.read_text().splitlines(keepends=True)[0])
    with pytest.warns(UserWarning, match="holds 1 groups, not 2"):
        assert generate_groups(tmp_path, PROMPTS, Model(), score, PARTS) == expected()


def test_parts_of_other_prompts_are_refused(tmp_path: Path) -> None:
    generate_groups(tmp_path, PROMPTS, Model(), score, PARTS)
    with pytest.raises(ValueError, match="000001.jsonl belongs to another job: delete"):
        generate_groups(tmp_path, ["other", *PROMPTS[1:]], Model(), score, PARTS)


def test_processes_share_the_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes, one after the other: the second one has the missing parts."""

    class State:
        num_processes = 2

        def __init__(self, index: int) -> None:
            self.process_index = index

        def wait_for_everyone(self) -> None:
            pass

    models = [Model(), Model()]
    monkeypatch.setattr("fdpo.runs.distributed.partial_state", lambda: State(1))
    with pytest.raises(ValueError, match="000000.jsonl: no such file"):  # of the first process
        generate_groups(tmp_path, PROMPTS, models[1], score, PARTS)
    monkeypatch.setattr("fdpo.runs.distributed.partial_state", lambda: State(0))
    assert generate_groups(tmp_path, PROMPTS, models[0], score, PARTS) == expected()
    assert [[part for part, _ in model.calls] for model in models] == [[0, 2], [1]]


def test_a_data_set_of_pairs(tmp_path: Path) -> None:
    options: dict[str, Any] = {"provenance": {"model": "none"}, "test_size": 0.4, "seed": 3}
    pairing = PairingConfig(rule="best_worst")
    counts = make_dataset(
        tmp_path, PROMPTS, Model(), score, parts=PARTS, pairing=pairing, **options
    )
    assert read_groups(tmp_path / "groups.jsonl") == expected()
    pairs, expected_counts = make_pairs(expected(), "best_worst")
    written = [*read_pairs(tmp_path / "train.jsonl"), *read_pairs(tmp_path / "test.jsonl")]
    assert sorted(map(repr, written)) == sorted(map(repr, pairs)) and counts == expected_counts
    assert "| model | none |" in (tmp_path / "README.md").read_text()
    assert not (tmp_path / "parts").exists()


def test_a_prompt_is_a_part_by_default(tmp_path: Path) -> None:
    model = Model()
    generate_groups(tmp_path, PROMPTS[:2], model, score)
    assert model.calls == [(0, ["ccc"]), (1, ["a"])]


def test_scorers_of_images_get_complete_paths(tmp_path: Path) -> None:
    paths: list[str] = []

    def record(prompts: Sequence[str], given: Sequence[str]) -> list[float]:
        paths.extend(given)
        return [0.0 for _ in given]

    image_scorer(record, tmp_path)(["", ""], ["pictures/0.png", "pictures/1.png"])
    assert paths == [str(tmp_path / "pictures/0.png"), str(tmp_path / "pictures/1.png")]
