"""An exception of a model's code as text: for callers in Triton's format, for the log in Python's, without our own frames.

Pure. A traceback's frames begin where the exception was caught, in this package; the author's follow.
"""

from __future__ import annotations

import itertools
import re
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final

from protocol.errors import ConfigError, FleetError, described

MAX_FRAMES: Final = 32
"""Innermost frames that a caller sees; an endless recursion has a thousand."""
MAX_TRACE: Final = 64 * 1024
"""Characters of a traceback in the log, half from its beginning and half from its end."""

_OURS: Final = str(Path(__file__).parents[1])
_IMPORTING: Final = "<frozen importlib"
_CRASH_FRAME: Final = re.compile(r'^  File "(.+)", line (\d+) in (.+)$', re.MULTILINE)
_LIBRARY: Final = f"{Path(traceback.__file__).parent}/"
_INSTALLED: Final = re.compile("/(site|dist)-packages/")
_CURRENT, _STACK = "Current thread ", "Stack (most recent call first)"
"""How faulthandler begins the frames of the thread that crashed, or of the only one that it prints."""
_RUN_USER_CODE: Final = frozenset(
    [str(Path(__file__).parent / name) for name in ("python_instances.py", "python_modules.py")]
)


class LoadError(ConfigError):
    """A model's code raised while the model was loaded.

    Attributes:
        trace: see `trace_of`.
    """

    def __init__(self, message: str, trace: str = "") -> None:
        super().__init__(message)
        self.trace = trace


def text_of(error: BaseException) -> str:
    """The error as callers read it: a `FleetError`'s message; else type and text and, if a model's own code raised it, the places
    from the innermost frame outwards, as Triton's Python backend writes them.
    """
    text = described(error)
    places = "" if isinstance(error, FleetError) else _places(error.__traceback__)
    if not places:
        return text
    return f"{text if ': ' in text else f'{text}: <EMPTY MESSAGE>'}\n\nAt:\n{places}"


def sentence_of(error: BaseException) -> str:
    """The error in one line, with the author's own innermost place: `ValueError: no weights (/models/m/1/model.py:3, in load)`."""
    text = " ".join(described(error).split())
    if isinstance(error, SyntaxError) and error.filename:
        return f"{type(error).__name__}: {error.msg} ({error.filename}:{error.lineno})"
    place = _own_place(
        [
            (frame.f_code.co_filename, line, frame.f_code.co_name)
            for frame, line in traceback.walk_tb(_authors(error.__traceback__))
        ][::-1]
    )
    return f"{text} ({place})" if place else text


def crash_place(dump: str) -> str:
    """Where a process crashed, of what Python's faulthandler printed: the author's own innermost place, or ""."""
    thread = (dump.partition(_CURRENT)[2] or dump.partition(_STACK)[2]).partition("\n\n")[0]
    return _own_place([(file, int(line), name) for file, line, name in _CRASH_FRAME.findall(thread)])


def _own_place(frames: Sequence[tuple[str, int, str]]) -> str:
    """The first place of these, innermost first, that is neither ours nor a library's; a library's if there is no other."""
    theirs = [frame for frame in frames if not frame[0].startswith((_OURS, "<frozen "))]
    own = [frame for frame in theirs if not frame[0].startswith(_LIBRARY) and not _INSTALLED.search(frame[0])]
    return _place(*(own or theirs)[0]) if theirs else ""


def _place(file: str, line: int, name: str) -> str:
    return f"{file}:{line}" if name == "<module>" else f"{file}:{line}, in {name}"


def trace_of(error: BaseException) -> str:
    """The error as Python shows it, without our frames before the author's; "" if all frames are ours."""
    first = _authors(error.__traceback__)
    return "" if first is None else _shown(error, first)


def whole_trace_of(error: BaseException) -> str:
    """The error as Python shows it."""
    return _shown(error, error.__traceback__)


def _shown(error: BaseException, first: TracebackType | None) -> str:
    shown = "".join(traceback.format_exception(type(error), error, first)).rstrip()
    if len(shown) <= MAX_TRACE:
        return shown
    half = MAX_TRACE // 2
    return f"{shown[:half]}\n  [{len(shown) - 2 * half} characters are left out]\n{shown[-half:]}"


def traced(error: BaseException) -> dict[str, str]:
    """What a log record has beside the error's text: `exception`, if the error brings a trace of another process."""
    trace = getattr(error, "trace", "")
    return {"exception": trace} if isinstance(trace, str) and trace else {}


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
    return "".join(_collapsed(frames[::-1]))


def _collapsed(frames: Sequence[str]) -> Iterator[str]:
    """At most `MAX_FRAMES`; equal ones that follow one another, as in an endless recursion, are counted."""
    for number, (frame, equal) in enumerate(itertools.groupby(frames)):
        if number == MAX_FRAMES:
            return
        count = len(list(equal))
        yield frame
        if count > 1:
            yield f"  [Previous line repeated {count - 1} more times]\n"


def _authors(trace: TracebackType | None) -> TracebackType | None:
    """The traceback from the first frame outside this package."""
    while trace is not None and trace.tb_frame.f_code.co_filename.startswith((_OURS, _IMPORTING)):
        trace = trace.tb_next
    return trace
