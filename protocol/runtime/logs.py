"""One way to log for every process: structlog, for people or as JSON, with the request's id and trace where a line has one.

Invariant: whatever callers sent or models printed, an entry for people is one line (a traceback's lines are indented), has no
character that a terminal obeys, and no value longer than `MAX_TEXT`; a traceback may have four times that.
"""

from __future__ import annotations

import io
import logging
import sys
import time
from collections.abc import MutableMapping
from typing import Any, Final, TextIO

import structlog

from protocol.runtime.outages import Hush
from protocol.runtime.repeats import Repeats
from protocol.texts import MAX_TEXT, shortened, visible

_TEXTS: Final = frozenset({"exception", "stack"})
"""Values with several lines."""
_MAX_LINES: Final = 4 * MAX_TEXT
SAID_LAST: Final = "said_last"
"""A key of a record with a `reason` that this process also says as its last line, right afterwards."""
LIBRARIES: Final = ("aiokafka", "kafka", "protocol.transport")
"""Loggers that repeat their lines while a server is unreachable."""


class Seldom(logging.Filter):
    """Lets a library log an equal line once a minute."""

    def __init__(self) -> None:
        super().__init__()
        self._repeats = Repeats()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the line is written."""
        library = next((name for name in LIBRARIES if record.name.startswith(name)), None)
        if library is None or record.levelno < logging.WARNING:
            return True
        about = str(record.args[0]) if isinstance(record.args, tuple) and record.args else ""
        held = self._repeats.due((record.name, record.msg, about), time.monotonic())
        if held:
            record.msg = f"{record.msg} (and {held} times more since it was last logged)"
        return held is not None


class Once(logging.Filter):
    """Leaves to the last line what it says; the record stays where it has more, such as a traceback.

    Args:
        wanted: people read the log. Programs get every record whole.
    """

    def __init__(self, *, wanted: bool) -> None:
        super().__init__()
        self._wanted = wanted

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the line is written."""
        entry: Any = record.msg  # structlog's entry, as a dict
        if not isinstance(entry, dict) or SAID_LAST not in entry:
            return True
        record.msg = {key: value for key, value in entry.items() if key != SAID_LAST}
        if not self._wanted:
            return True
        del record.msg["reason"]
        return not _TEXTS.isdisjoint(entry)


class Levels(logging.Filter):
    """Lets through the levels that are switched on; all of them at first."""

    def __init__(self) -> None:
        super().__init__()
        self.off: frozenset[int] = frozenset()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the line is written."""
        return record.levelno not in self.off


_levels: Final = Levels()


def level() -> str:
    """The lowest level that is logged, as `configure` takes it."""
    return logging.getLevelName(logging.getLogger().level).lower()


def switch(*, debug: bool, info: bool, warning: bool, error: bool) -> None:
    """Switch levels on or off in a running process that was configured here; CRITICAL is always on."""
    root = logging.getLogger()
    if not any(_levels in handler.filters for handler in root.handlers):
        return
    chosen = {logging.DEBUG: debug, logging.INFO: info, logging.WARNING: warning, logging.ERROR: error}
    _levels.off = frozenset([each for each, on in chosen.items() if not on])
    root.setLevel(min([each for each, on in chosen.items() if on], default=logging.CRITICAL))


def configure(style: str = "human", level: str = "info") -> None:
    """Send structlog's and the standard library's lines to stderr in one style."""
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    finish: list[Any] = [
        shorten,
        escape,
        structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=_write_traceback),
    ]
    if style == "json":
        shared.append(structlog.processors.dict_tracebacks)
        finish = [shorten, structlog.processors.JSONRenderer()]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.processors.StackInfoRenderer(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared, processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *finish]
    )
    root = logging.getLogger()
    root.handlers[:] = [_handler(formatter, once=style != "json")]
    root.setLevel(level.upper())
    for noisy in ("aiokafka", "kafka", "uvicorn.error", "httpx"):
        logging.getLogger(noisy).setLevel(max(logging.WARNING, root.level))
    logging.getLogger("uvicorn.access").disabled = True


def _handler(formatter: logging.Formatter, *, once: bool) -> logging.Handler:
    """To stderr, without what is hushed, seldom or switched off; `once`: without what was said before."""
    handler = logging.StreamHandler(sys.stderr)
    _levels.off = frozenset()
    for each in (Hush(handler), Seldom(), Once(wanted=once), _levels):
        handler.addFilter(each)
    handler.setFormatter(formatter)
    return handler


def shorten(_: object, __: str, entry: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Leave out the middle of long values; a structlog processor."""
    for key, value in entry.items():
        if isinstance(value, str | list | tuple | dict):
            entry[key] = _shortened(value, _MAX_LINES if key in _TEXTS else MAX_TEXT)
    return entry


def _shortened(value: Any, most: int) -> Any:
    if isinstance(value, str):
        return shortened(value, most)
    if isinstance(value, dict):
        return {key: _shortened(item, most) for key, item in value.items()}
    return [_shortened(item, most) for item in value] if isinstance(value, list | tuple) else value


def escape(_: object, __: str, entry: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Escape what a terminal would obey; a structlog processor."""
    for key, value in entry.items():
        if isinstance(value, str):
            entry[key] = visible(value, lines=key in _TEXTS)
    return entry


def _write_traceback(stream: TextIO, exc_info: Any) -> None:
    """structlog's plain traceback, indented so that its lines cannot be taken for entries."""
    text = io.StringIO()
    structlog.dev.plain_traceback(text, exc_info)
    stream.write(visible(shortened(text.getvalue(), _MAX_LINES), lines=True).replace("\n", "\n    "))
