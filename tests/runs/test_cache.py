"""A reference's numbers are computed once, and a model's name is a function of its weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from fdpo.runs.cache import ReferenceCache, cached_file, fingerprint

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


def test_one_missing_value_computes_the_whole_batch(tmp_path: Path) -> None:
    cache = ReferenceCache(tmp_path)
    cache.add(KEYS[:2], torch.tensor([-1.0, -2.0]))
    new = torch.tensor([-10.0, -20.0, -30.0])
    assert cache.get_or_compute(KEYS, lambda: new).tolist() == new.tolist()
    assert cache.get(KEYS).tolist() == [-1.0, -2.0, -30.0]  # the first value of a key stays


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


def test_files_are_written_once_and_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "samples.txt"

    def broken(beside: Path) -> None:
        beside.write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cached_file(path, broken)
    assert not list(path.parent.iterdir())
    assert cached_file(path, lambda beside: beside.write_text("whole")) == path
    assert cached_file(path, broken).read_text() == "whole"


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
