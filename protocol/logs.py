"""One way to log for every process: structlog, for people or as JSON, with the request's id and trace where a line has one."""

from __future__ import annotations

import collections
import logging
import sys
import time
from typing import Any, Final

import structlog

from protocol.repeats import Repeats

LIBRARIES: Final = ("aiokafka", "kafka", "protocol.transport")
"""Loggers whose lines come again for as long as a server is away."""
silent: Final[collections.Counter[str]] = collections.Counter()
"""Loggers of libraries that say nothing new now, by how many parts of this process say so: somebody has told it already."""


class Seldom(logging.Filter):
    """Lets a library say the same once a minute, and nothing while its logger is among the `silent` ones."""

    def __init__(self) -> None:
        super().__init__()
        self._repeats = Repeats()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the line is written."""
        library = next((name for name in LIBRARIES if record.name.startswith(name)), None)
        if library is None or record.levelno < logging.WARNING:
            return True
        if silent[library] > 0:
            return False
        about = str(record.args[0]) if isinstance(record.args, tuple) and record.args else ""
        held = self._repeats.due((record.name, record.msg, about), time.monotonic())
        if held:
            record.msg = f"{record.msg} (and {held} times more since it was said last)"
        return held is not None


def configure(style: str = "human", level: str = "info") -> None:
    """Send structlog's and the standard library's lines to stderr in one style."""
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderer: Any = structlog.dev.ConsoleRenderer(
        colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
    )
    if style == "json":
        shared.append(structlog.processors.dict_tracebacks)
        renderer = structlog.processors.JSONRenderer()
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
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(Seldom())
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for noisy in ("aiokafka", "kafka", "uvicorn.error", "httpx"):
        logging.getLogger(noisy).setLevel(max(logging.WARNING, root.level))
    logging.getLogger("uvicorn.access").disabled = True
