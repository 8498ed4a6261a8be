"""A reference's numbers are computed once, and a model's name is a function of its weights."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from fdpo.runs.cache import RECORD, ReferenceCache, cached, fingerprint
from fdpo.runs.files import read_json

KEYS = torch.tensor([[1, 2], [3, 4], [5, -6]])


def test_values_are_computed_once(tmp_path: Path) -> None:
    calls = []

    def compute() -> Tensor:
        calls.append(1)
        return torch.tensor([-1.0, -2.0, -3.0])

    cache = ReferenceCache(tmp_path)
    for _ in range(2):
        assert cache.get_or_compute(KEYS, compute).tolist() == [-1.0, -2.0, -3.0]
    cache.save()
    again = ReferenceCache(tmp_path)
    assert again.get_or_compute(KEYS[1:], compute).tolist() == [-2.0, -3.0]
    assert len(calls) == 1


def test_a_key_has_one_value_also_where_its_batch_is_computed_again(tmp_path: Path) -> None:
    cache = ReferenceCache(tmp_path)
    cache.add(KEYS[:2], torch.tensor([-1.0, -2.0]))
    new = torch.tensor([-10.0, -20.0, -30.0])
    for _ in range(2):
        assert cache.get_or_compute(KEYS, lambda: new).tolist() == [-1.0, -2.0, -30.0]


def test_a_run_repeats_bit_for_bit_with_the_cache_that_it_filled(tmp_path: Path) -> None:
    """Batches share keys, and each rounds in a way of its own."""

    def run() -> list[float]:
        cache, generator = ReferenceCache(tmp_path), torch.Generator().manual_seed(0)
        values: list[float] = []
        for _ in range(20):
            rows = torch.randint(0, 9, (4,), generator=generator).unique()
            keys = torch.stack([rows, -rows], 1)
            values += cache.get_or_compute(keys, partial(torch.rand, len(keys))).tolist()
            cache.save()
        cache.report(tmp_path, resumed=False)
        return values

    first, counts = run(), read_json(tmp_path / RECORD)
    assert counts == {"found": 0, "of_other_batches": 0, "computed": 9}
    assert run() == first
    assert read_json(tmp_path / RECORD) == {"found": 9, "of_other_batches": 0, "computed": 0}


def test_numbers_of_other_batches_are_counted_aloud(tmp_path: Path) -> None:
    first = ReferenceCache(tmp_path)
    first.get_or_compute(KEYS, lambda: torch.zeros(3))
    first.save()
    again = ReferenceCache(tmp_path)
    again.get_or_compute(KEYS[:2], lambda: torch.ones(2))
    again.get_or_compute(torch.tensor([[7, 8]]), lambda: torch.ones(1))
    with pytest.warns(UserWarning, match="2 of 3 numbers are those of other batches"):
        again.report(tmp_path, resumed=False)
    assert read_json(tmp_path / RECORD) == {"found": 2, "of_other_batches": 2, "computed": 1}


def test_processes_find_their_own_numbers_again(tmp_path: Path) -> None:
    """Two processes of a launcher compute one key in batches of their own."""
    caches, batches = [ReferenceCache(tmp_path) for _ in range(2)], [KEYS[:2], KEYS[1:]]
    for value, (cache, keys) in enumerate(zip(caches, batches, strict=True)):
        cache.get_or_compute(keys, partial(torch.full, (2,), float(value)))
        cache.save()
    for value, keys in enumerate(batches):
        cache = ReferenceCache(tmp_path)
        assert cache.get_or_compute(keys, lambda: torch.ones(2)).tolist() == [value] * 2
        assert (cache.found, cache.foreign) == (2, 0)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "empty": lambda file: file.write_bytes(b""),
    "cut": lambda file: file.write_bytes(file.read_bytes()[:-9]),
    "garbage": lambda file: file.write_bytes(b"\x80\x04garbage" * 9),
    "other keys": lambda file: save_file({"numbers": torch.ones(3)}, file),
    "another shape": lambda file: save_file({"keys": KEYS, "values": torch.ones(2)}, file),
    "three columns": lambda file: save_file(
        {"keys": torch.ones(3, 3, dtype=torch.int64), "values": torch.ones(3)}, file
    ),
    "another dtype": lambda file: save_file({"keys": KEYS.float(), "values": torch.ones(3)}, file),
    "not finite": lambda file: save_file(
        {"keys": KEYS, "values": torch.full((3,), torch.nan)}, file
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_files_are_left_out_with_one_line_and_computed_again(
    tmp_path: Path, damage: str
) -> None:
    for keys in (KEYS[:1], KEYS[1:]):
        cache = ReferenceCache(tmp_path)
        cache.get_or_compute(keys, partial(torch.zeros, len(keys)))
        cache.save()
    for file in tmp_path.iterdir():
        DAMAGE[damage](file)
    with pytest.warns(UserWarning, match="is left out .*, and 1 more files") as notes:
        cache = ReferenceCache(tmp_path)
    assert cache.get_or_compute(KEYS, lambda: torch.ones(3)).tolist() == [1.0] * 3
    cache.save()
    assert len(notes) == 1 and len(ReferenceCache(tmp_path)) == 3  # without a line


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), PermissionError(13, "")])
def test_a_cache_that_cannot_be_written_is_left_with_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise error

    cache = ReferenceCache(tmp_path / "cache")
    monkeypatch.setattr("fdpo.runs.files.Path.mkdir", refuse)
    with pytest.warns(UserWarning, match="is not written") as notes:
        for number in range(3):
            keys = KEYS + number
            assert cache.get_or_compute(keys, lambda: torch.ones(3)).tolist() == [1.0] * 3
            cache.save()
    assert len(notes) == 1
    assert cache.get_or_compute(KEYS, lambda: torch.zeros(3)).tolist() == [1.0] * 3


def test_a_cache_whose_folder_is_a_file_is_left_with_one_line(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("not a folder")
    cache = ReferenceCache.open(lambda: "name", str(tmp_path / "cache"))
    assert cache.get_or_compute(KEYS, lambda: torch.ones(3)).tolist() == [1.0] * 3
    with pytest.warns(UserWarning, match="is not written") as notes:
        cache.save()
        cache.save()
    assert len(notes) == 1


def test_without_a_home_nothing_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    for name in ("FDPO_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    with pytest.warns(UserWarning, match="no home folder"):
        cache = ReferenceCache.open(lambda: "name")
    assert cache.enabled and cache.get_or_compute(KEYS, lambda: torch.ones(3)).sum() == 3
    cache.save()
    assert cache.get_or_compute(KEYS, lambda: torch.zeros(3)).sum() == 3


def test_leftovers_of_writers_go_after_a_day(tmp_path: Path) -> None:
    old, new = (tmp_path / f".{n}.123-0123abcd.safetensors" for n in "ab")
    for file in (old, new, tmp_path / ".keep"):
        file.touch()
        os.utime(file, (0, 0) if file != new else None)
    ReferenceCache(tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == [new.name, ".keep"]


def test_a_disabled_cache_computes_each_time(tmp_path: Path) -> None:
    def name() -> str:
        raise AssertionError("nobody needs the name")

    cache = ReferenceCache.open(name, "off")
    values = iter([torch.ones(3), torch.zeros(3)])
    assert cache.get_or_compute(KEYS, lambda: next(values)).tolist() == [1.0] * 3
    assert cache.get_or_compute(KEYS, lambda: next(values)).tolist() == [0.0] * 3
    cache.save()
    assert not cache.enabled and not list(tmp_path.iterdir())


def test_a_reference_has_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ReferenceCache.open(lambda: "name", str(tmp_path)).folder == tmp_path / "name"
    monkeypatch.setenv("FDPO_CACHE", str(tmp_path / "all"))
    default = ReferenceCache.open(lambda: "name")
    assert default.folder == tmp_path / "all/reference/name"


def read(path: Path) -> int:
    return int(path.read_text())


def write(path: Path, value: int) -> None:
    path.write_text(str(value))


def test_a_value_is_computed_once_and_written_whole(tmp_path: Path) -> None:
    path, values = tmp_path / "new" / "samples.txt", iter([1, 2])

    def compute() -> int:
        return next(values)

    def interrupted(path: Path, value: int) -> None:
        write(path, value)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cached(path, compute, read=read, write=interrupted)
    assert not list(path.parent.iterdir())
    for _ in range(2):
        assert cached(path, compute, read=read, write=write) == 2


def test_a_damaged_value_is_computed_again_with_one_line(tmp_path: Path) -> None:
    path = tmp_path / "samples.txt"
    path.write_text("")
    with pytest.warns(UserWarning, match="samples.txt is damaged and made again") as notes:
        assert cached(path, lambda: 3, read=read, write=write) == 3
    assert len(notes) == 1 and read(path) == 3


def test_a_value_that_cannot_be_written_is_computed_with_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.warns(UserWarning, match="samples.txt is not written") as notes:
        assert cached(tmp_path / "file/samples.txt", lambda: 3, read=read, write=write) == 3
    assert len(notes) == 1


def weights(model: nn.Module) -> list[tuple[str, Tensor]]:
    return list(model.named_parameters())


def test_fingerprints_follow_weights_names_dtypes_and_provenance() -> None:
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    name = fingerprint(weights(model), "fp32")
    assert fingerprint(reversed(weights(model)), "fp32") == name
    others = [
        fingerprint(weights(model), "bf16"),
        fingerprint(weights(model.double()), "fp32"),
        fingerprint([(f"x.{n}", p) for n, p in weights(model.float())], "fp32"),
    ]
    with torch.no_grad():
        model.weight[0, 0] += 1e-6
    others.append(fingerprint(weights(model), "fp32"))
    assert len({name, *others}) == 5
