"""An exception of a model's code as text: for callers in Triton's format, for the log in Python's, without our own frames.

Pure. A traceback's frames begin where the exception was caught, in this package; the author's follow.
"""

from __future__ import annotations

import traceback
from pathlib import Path
from types import TracebackType
from typing import Final

from protocol.errors import FleetError, described

MAX_FRAMES: Final = 32
"""Innermost frames that a caller sees; an endless recursion has a thousand."""
MAX_TRACE: Final = 64 * 1024
"""Characters of a traceback in the log, half from its beginning and half from its end."""

_OURS: Final = str(Path(__file__).parents[1])
_IMPORTING: Final = "<frozen importlib"
_RUN_USER_CODE: Final = frozenset(
    [str(Path(__file__).parent / name) for name in ("python_instances.py", "python_modules.py")]
)


def text_of(error: BaseException) -> str:
    """The error as callers read it: a `FleetError`'s message; else type and text and, if a model's own code raised it, the places
    from the innermost frame outwards, as Triton's Python backend writes them.
    """
    text = described(error)
    places = "" if isinstance(error, FleetError) else _places(error.__traceback__)
    if not places:
        return text
    return f"{text if ': ' in text else f'{text}: <EMPTY MESSAGE>'}\n\nAt:\n{places}"


def trace_of(error: BaseException) -> str:
    """The error as Python shows it, without our frames before the author's; "" if all frames are ours."""
    first = _authors(error.__traceback__)
    if first is None:
        return ""
    shown = "".join(traceback.format_exception(type(error), error, first)).rstrip()
    if len(shown) <= MAX_TRACE:
        return shown
    half = MAX_TRACE // 2
    return f"{shown[:half]}\n  [{len(shown) - 2 * half} characters are left out]\n{shown[-half:]}"


def _places(trace: TracebackType | None) -> str:
    """Empty unless a model's own code was called."""
    while trace is not None and trace.tb_frame.f_code.co_filename not in _RUN_USER_CODE:
        trace = trace.tb_next
    first = _authors(trace)
    if first is None:
        return ""
    frames = [
        f"  {frame.f_code.co_filename}({line}): {frame.f_code.co_name}\n"
        for frame, line in traceback.walk_tb(first)
        if not frame.f_code.co_filename.startswith(_IMPORTING)
    ]
    return "".join(frames[: -MAX_FRAMES - 1 : -1])


def _authors(trace: TracebackType | None) -> TracebackType | None:
    """The traceback from the first frame outside this package."""
    while trace is not None and trace.tb_frame.f_code.co_filename.startswith(_OURS):
        trace = trace.tb_next
    return trace
