"""Triton's trace settings, of the server and of models. Pure.

Nothing is traced yet: every level but OFF is refused, in the words of a Triton that was given no trace file. The other settings are
kept, checked and told, so that scripts that set them work.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from protocol.errors import InvalidArgument, Unsupported, quoted

_DEFAULTS: Final[dict[str, str | list[str]]] = {
    "trace_level": ["OFF"],
    "trace_rate": "1000",
    "trace_count": "-1",
    "log_frequency": "0",
    "trace_file": "",
    "trace_mode": "triton",
}
_LEVELS: Final = ("OFF", "TIMESTAMPS", "TENSORS")
_LIMITS: Final = {"trace_rate": (0, 2**32 - 1), "trace_count": (-1, 2**31 - 1), "log_frequency": (0, 2**32 - 1)}
_MAX_DIGITS: Final = 20


class TraceSettings:
    """The settings of the server, and what models override of them.

    Args:
        known: whether there is a model of this name.
    """

    def __init__(self, known: Callable[[str], bool]) -> None:
        self._known = known
        self._server: dict[str, str | list[str]] = {}
        self._models: dict[str, dict[str, str | list[str]]] = {}

    def get(self, model: str = "") -> dict[str, Any]:
        """The settings of a model, or of the server, as Triton writes them: texts, and a list of levels.

        Raises:
            InvalidArgument: there is no such model.
        """
        self._check(model)
        return {**_DEFAULTS, **self._server, **self._models.get(model, {})}

    def update(self, model: str, settings: Mapping[str, object]) -> dict[str, Any]:
        """Change settings, all or none; returns them all.

        Args:
            model: "" for the server.
            settings: a text, or a tuple with one as gRPC has it; a list of texts for `trace_level`; None clears what was set.

        Raises:
            InvalidArgument: a setting is unknown or its value invalid, or there is no such model.
            Unsupported: it would change the trace file.
        """
        self._check(model)
        checked = {name: _checked(name, value) for name, value in settings.items()}
        if model:
            self._models = {name: kept for name, kept in self._models.items() if self._known(name)}
        held = self._models.setdefault(model, {}) if model else self._server
        for name, value in checked.items():
            if value is None:
                held.pop(name, None)
            else:
                held[name] = value
        if model and not held:
            del self._models[model]
        return self.get(model)

    def _check(self, model: str) -> None:
        if model and not self._known(model):
            raise InvalidArgument(f"Request for unknown model : {model[:200]}")


def _checked(name: str, value: object) -> str | list[str] | None:
    """The value to keep; None to clear it."""
    if name == "trace_file":
        raise Unsupported("trace file location can not be updated through network protocol")
    if name not in _DEFAULTS:
        raise InvalidArgument(f"there is no trace setting {quoted(name)}; there are {', '.join(_DEFAULTS)}")
    if value is None or value in ([], ()):
        return None
    if name == "trace_level":
        return _levels(value)
    if isinstance(value, tuple) and len(value) == 1:
        value = value[0]
    if not isinstance(value, str):
        raise InvalidArgument(f"trace setting '{name}' must be a text, not {quoted(value)}")
    if name == "trace_mode":
        if value != _DEFAULTS["trace_mode"]:
            raise InvalidArgument(f"trace mode {quoted(value)} is not supported; it is 'triton'")
        return None
    return _number(name, value)


def _levels(value: object) -> list[str]:
    if not isinstance(value, list | tuple) or not all(isinstance(level, str) for level in value):
        raise InvalidArgument(f"trace setting 'trace_level' must be a list of texts, not {quoted(value)}")
    unknown = next((level for level in value if level not in _LEVELS), None)
    if unknown is not None:
        raise InvalidArgument(f"there is no trace level {quoted(unknown)}; there are {', '.join(_LEVELS)}")
    if "OFF" not in value:
        raise InvalidArgument("Attempting to set invalid trace setting :trace file name is not given")
    if len(value) > 1:
        raise InvalidArgument("Expect only one trace level 'OFF' is specified")
    return ["OFF"]


def _number(name: str, text: str) -> str:
    low, high = _LIMITS[name]
    digits = text.removeprefix("-")
    if not (digits.isascii() and digits.isdigit()):
        raise InvalidArgument(f"Unable to parse '{name}', got: {text[:64]}")
    number = int(text) if len(digits) <= _MAX_DIGITS else 10**_MAX_DIGITS
    if number < -1 and name == "trace_count" and number >= -high:
        raise InvalidArgument(f"Unable to parse '{name}'. Expecting value >= -1, got:{number}")
    if not low <= number <= high:
        raise InvalidArgument(f"Unable to parse '{name}', value is out of range [ {low}, {high} ], got: {text[:64]}")
    return str(number)
