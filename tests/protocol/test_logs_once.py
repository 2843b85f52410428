"""A failure that ends the process is read once on a terminal; programs get its record whole."""

from __future__ import annotations

import logging

import pytest

from protocol.runtime.logs import SAID_LAST, Once

FAILED = {"event": "a model cannot be loaded", "model": "m", "reason": "it is empty", SAID_LAST: True}


def record(entry: object) -> logging.LogRecord:
    return logging.LogRecord("n", logging.ERROR, "f", 1, entry, (), None)


@pytest.mark.parametrize(("entry", "wanted", "written"), [
    (FAILED, True, None),
    (FAILED | {"exception": "Traceback"}, True, {"event": "a model cannot be loaded", "model": "m", "exception": "Traceback"}),
    (FAILED, False, {"event": "a model cannot be loaded", "model": "m", "reason": "it is empty"}),
    ({"event": "e", "reason": "r"}, True, {"event": "e", "reason": "r"}),
    ("a library's line", True, "a library's line"),
])  # fmt: skip
def test_what_is_written(entry: object, wanted: bool, written: object) -> None:
    made = record(entry)
    assert (made.msg if Once(wanted=wanted).filter(made) else None) == written


def test_the_entry_itself_is_left_as_it_is() -> None:
    entry = dict(FAILED)
    Once(wanted=True).filter(record(entry))
    assert entry == FAILED
