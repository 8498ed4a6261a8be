"""Library messages that are dropped, and progress bars that appear after a while."""

from __future__ import annotations

import io
import logging
import os
import sys
import warnings
from collections.abc import Iterator

import pytest
from tqdm import tqdm

from fdpo.cli import quiet


@pytest.fixture
def quiet_terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Calls quiet_libraries, and restores everything afterwards."""
    for name in ("stdout", "stderr", "excepthook"):
        monkeypatch.setattr(sys, name, getattr(sys, name))
    loggers = {name: logging.getLogger(name) for name in quiet.LOGGED}
    filters = {name: list(logger.filters) for name, logger in loggers.items()}
    start, formatwarning = tqdm.__init__, warnings.formatwarning
    with warnings.catch_warnings():
        quiet.quiet_libraries.cache_clear()
        quiet.quiet_libraries()
        yield
    tqdm.__init__, warnings.formatwarning = start, formatwarning
    quiet.quiet_libraries.cache_clear()
    for name, logger in loggers.items():
        logger.filters = filters[name]


@pytest.mark.usefixtures("quiet_terminal")
@pytest.mark.parametrize("name", quiet.LOGGED)
def test_known_messages_are_dropped_and_others_pass(name: str) -> None:
    stream = io.StringIO()
    logger, handler = logging.getLogger(name), logging.StreamHandler(stream)
    logger.addHandler(handler)
    try:
        for text in quiet.LOGGED[name]:
            logger.warning(f"[RANK 0] {text} and so on")  # as accelerate writes it
        logger.warning("a weight is missing")
    finally:
        logger.removeHandler(handler)
    assert stream.getvalue() == "a weight is missing\n"


@pytest.mark.usefixtures("quiet_terminal")
def test_known_warnings_are_dropped_and_others_pass() -> None:
    with warnings.catch_warnings(record=True) as shown:
        warnings.warn("`gradient_checkpointing` is deprecated", FutureWarning, stacklevel=1)
        warnings.warn("a mistake", UserWarning, stacklevel=1)
    assert [str(warning.message) for warning in shown] == ["a mistake"]


@pytest.mark.usefixtures("quiet_terminal")
def test_a_warning_is_one_line() -> None:
    warning = UserWarning("f.jsonl: a thing\nworth knowing")
    line = warnings.formatwarning(warning, UserWarning, "fdpo/notes.py", 15)
    assert line == "f.jsonl: a thing worth knowing\n"


@pytest.mark.usefixtures("quiet_terminal")
def test_bars_appear_after_a_delay() -> None:
    delayed, at_once = io.StringIO(), io.StringIO()
    with tqdm(total=2, file=delayed) as bar:
        bar.update(2)
    with tqdm(total=2, file=at_once, delay=0) as bar:
        bar.update(2)
    assert delayed.getvalue() == "" and "2/2" in at_once.getvalue()
    assert bar.delay == 0 and tqdm(total=2, file=delayed).delay == quiet.BAR_DELAY


def test_a_terminal_shows_what_its_encoding_lacks_as_escapes(
    monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(raw, encoding="ascii"))
    request.getfixturevalue("quiet_terminal")
    print("schön \udcff", flush=True)
    assert raw.getvalue() == b"sch\\xf6n \\udcff\n"


def test_paths_that_the_locale_cannot_read_start_the_program_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    started: list[list[str]] = []
    monkeypatch.setattr("os.execv", lambda program, words: started.append(words))
    monkeypatch.setattr("sys.orig_argv", ["python", "-u", "train.py", "--output_dir", "läuf"])
    for argument in ("läuf", os.fsdecode(b"l\xff")):
        monkeypatch.setattr("sys.argv", ["train.py", "--output_dir", argument])
        quiet.use_utf8()
    assert [words[1:5] for words in started] == [["-X", "utf8", "-u", "train.py"]]
