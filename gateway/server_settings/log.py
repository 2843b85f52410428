"""Triton's log settings of one gateway process. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from protocol.errors import InvalidArgument, Unsupported, quoted

_FLAGS: Final = ("log_info", "log_warning", "log_error")
_FORMATS: Final = ("default", "ISO8601")
_ORDER: Final = ("error", "warning", "info", "debug")
_MAX_VERBOSE: Final = 2**31 - 1


class LogSettings:
    """Which levels are logged.

    Attributes:
        on_change: called with the settings after each change; it makes them real. None changes nothing.
    """

    def __init__(self, level: str = "info") -> None:
        self.on_change: Callable[[dict[str, Any]], None] | None = None
        self._settings: dict[str, Any] = {}
        self.start(level)

    def start(self, level: str) -> None:
        """State the level with which the process was started: debug, info, warning or error."""
        most = _ORDER.index(level) if level in _ORDER else _ORDER.index("info")
        self._settings = {
            "log_file": "",
            "log_info": most >= _ORDER.index("info"),
            "log_warning": most >= _ORDER.index("warning"),
            "log_error": True,
            "log_verbose_level": int(level == "debug"),
            "log_format": "default",
        }

    def get(self) -> dict[str, Any]:
        """The settings as Triton writes them."""
        return dict(self._settings)

    def update(self, settings: Mapping[str, object]) -> dict[str, Any]:
        """Change settings, all or none; returns them all. None leaves a setting as it is.

        `log_format` is kept and told: the times of our entries are ISO 8601 in either.

        Raises:
            InvalidArgument: a setting is unknown or its value invalid.
            Unsupported: it would change the log file.
        """
        checked = {name: value for name, value in settings.items() if value is not None or name not in self._settings}
        for name, value in checked.items():
            _check(name, value)
        self._settings.update(checked)
        if self.on_change is not None and checked:
            self.on_change(self.get())
        return self.get()


def _check(name: str, value: object) -> None:
    if name == "log_file":
        raise Unsupported("log file location can not be updated through network protocol")
    if name in _FLAGS:
        if not isinstance(value, bool):
            raise InvalidArgument(f"log setting '{name}' must be a boolean, not {quoted(value)}")
    elif name == "log_verbose_level":
        if type(value) is not int or not 0 <= value <= _MAX_VERBOSE:
            raise InvalidArgument(
                f"log setting '{name}' must be an unsigned integer of at most {_MAX_VERBOSE}, not {quoted(value)}"
            )
    elif name == "log_format":
        if not isinstance(value, str):
            raise InvalidArgument(f"log setting '{name}' must be a text, not {quoted(value)}")
        if value not in _FORMATS:
            raise InvalidArgument(f"invalid argument for --log_format, got: {value[:64]}")
    else:
        raise InvalidArgument(
            f"there is no log setting {quoted(name)}; there are {', '.join(('log_file', *_FLAGS))}, log_verbose_level, log_format"
        )
