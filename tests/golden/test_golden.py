"""The golden values: programs and functions still compute what they did."""

from __future__ import annotations

import pytest

from tests.golden.compare import differences, read_golden
from tests.golden.make import CASES, NEED_DATA, computed
from tests.golden.workplace import Workplace


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    """A folder for all cases: some of them look at a model that another trained."""
    return Workplace(tmp_path_factory.mktemp("golden").resolve())


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_nothing_computed_has_changed(
    name: str, work: Workplace, request: pytest.FixtureRequest
) -> None:
    if name in NEED_DATA:
        work.data = request.getfixturevalue("data_dir")
    assert differences(read_golden(name), computed(name, work), exact=False) == []
