"""One object of a configuration document (JSON, or protobuf's JSON form of config.pbtxt): typed reads that name the path. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final

from protocol.errors import ConfigError, quoted

MAX_INT32: Final = 2**31 - 1
MAX_UINT32: Final = 2**32 - 1
MAX_INT64: Final = 2**63 - 1
MAX_UINT64: Final = 2**64 - 1

_LARGE: Final = 1e300
_DECIMAL: Final = re.compile(r"-?[0-9]{1,20}")


class Document:
    """A JSON object at a path of the configuration, such as `input[1].reshape`; reads of a wrong type raise `ConfigError`."""

    __slots__ = ("_fields", "path")

    def __init__(self, value: object, path: str = "") -> None:
        self.path = path
        self._fields = as_object(value, path)

    def __contains__(self, key: str) -> bool:
        return self._fields.get(key) is not None

    def at(self, key: str) -> str:
        """The path of a field of this object."""
        return f"{self.path}.{key}" if self.path else key

    def text(self, key: str) -> str:
        """A string without NUL characters; "" if absent."""
        return as_text(self._fields.get(key, ""), self.at(key))

    def flag(self, key: str) -> bool:
        """A boolean; false if absent."""
        value = self._fields.get(key, False)
        if not isinstance(value, bool):
            raise ConfigError(f"'{self.at(key)}' must be true or false, not {quoted(value)}")
        return value

    def integer(self, key: str, low: int = 0, high: int = MAX_UINT32) -> int:
        """An integer, also as decimal text (protobuf's JSON form of 64-bit fields); 0 if absent."""
        return as_integer(self._fields.get(key, 0), self.at(key), low, high)

    def integers(self, key: str, low: int, high: int) -> tuple[int, ...]:
        """A list of integers; empty if absent."""
        items = enumerate(self._items(key))
        return tuple(as_integer(item, f"{self.at(key)}[{index}]", low, high) for index, item in items)

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of strings; empty if absent."""
        return tuple(as_text(item, f"{self.at(key)}[{index}]") for index, item in enumerate(self._items(key)))

    def numbers(self, key: str) -> tuple[float, ...]:
        """A list of finite numbers; empty if absent."""
        return tuple(_as_number(item, f"{self.at(key)}[{index}]") for index, item in enumerate(self._items(key)))

    def choice(self, key: str, names: Sequence[str]) -> str:
        """One of `names` in any case; the first of them if absent, as with protobuf's enums."""
        value = self._fields.get(key, names[0])
        name = value.upper() if isinstance(value, str) else ""
        if name not in names:
            raise ConfigError(f"'{self.at(key)}' must be one of {', '.join(names)}, not {quoted(value)}")
        return name

    def document(self, key: str) -> Document | None:
        """An object; None if absent."""
        return Document(self._fields[key], self.at(key)) if key in self else None

    def documents(self, key: str) -> tuple[Document, ...]:
        """A list of objects; empty if absent."""
        return tuple(Document(item, f"{self.at(key)}[{index}]") for index, item in enumerate(self._items(key)))

    def mapping(self, key: str) -> dict[str, object]:
        """An object whose keys are data; empty if absent."""
        return dict(as_object(self._fields.get(key, {}), self.at(key)))

    def texts_by_key(self, key: str) -> dict[str, str]:
        """An object of strings; empty if absent."""
        return {name: as_text(value, f"{self.at(key)}[{quoted(name)}]") for name, value in self.mapping(key).items()}

    def documents_by_key(self, key: str) -> dict[str, Document]:
        """An object of objects; empty if absent."""
        return {name: Document(value, f"{self.at(key)}[{quoted(name)}]") for name, value in self.mapping(key).items()}

    def _items(self, key: str) -> Sequence[object]:
        value = self._fields.get(key, ())
        if isinstance(value, str) or not isinstance(value, Sequence):
            raise ConfigError(f"'{self.at(key)}' must be a list, not {quoted(value)}")
        return value


def _as_number(value: object, path: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not -_LARGE < value < _LARGE:
        raise ConfigError(f"'{path}' must be a number, not {quoted(value)}")
    return float(value)


def as_object(value: object, path: str) -> Mapping[str, object]:
    """The value as a mapping with text keys.

    Raises:
        ConfigError: it is something else.
    """
    if not isinstance(value, Mapping):
        where = f"'{path}'" if path else "the model configuration"
        raise ConfigError(f"{where} must be an object, not {quoted(value)}")
    for key in value:
        as_text(key, f"{path} key")
    return value


def as_text(value: object, path: str) -> str:
    """The value as text that can be encoded as UTF-8 and holds no NUL.

    Raises:
        ConfigError: it is something else.
    """
    if not isinstance(value, str):
        raise ConfigError(f"'{path}' must be a string, not {quoted(value)}")
    if "\0" in value or any("\ud800" <= character <= "\udfff" for character in value):
        raise ConfigError(f"'{path}' must be text without NUL characters and lone surrogates, not {quoted(value)}")
    return value


def as_integer(value: object, path: str, low: int, high: int) -> int:
    """The value as an integer between `low` and `high`.

    Raises:
        ConfigError: it is something else, or out of range.
    """
    if isinstance(value, str) and _DECIMAL.fullmatch(value):
        value = int(value)
    if type(value) is not int:
        raise ConfigError(f"'{path}' must be an integer, not {quoted(value)}")
    if not low <= value <= high:
        raise ConfigError(f"'{path}' is {quoted(value)}; it must be between {low} and {high}")
    return value
