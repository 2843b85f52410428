"""The zip archives that torch writes: a folder of any name around their members."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import orjson

from protocol.errors import ConfigError

MAX_MEMBER: Final = 512 * 1024 * 1024
"""Bytes of a member that are read; the JSON of a program of 100,000 operators has about 100 MB."""


class TorchArchive:
    """An archive, open for reading.

    Args:
        path: of the file.

    Attributes:
        names: of its members, without the outer folder.

    Raises:
        ConfigError: it is not a zip archive.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._zip = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, ValueError, NotImplementedError, EOFError) as error:
            raise ConfigError(f"'{path}' is not a zip archive: {error}") from None
        self._full = {inner(name): name for name in self._zip.namelist()}
        self.names = tuple(self._full)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._zip.close()

    def read(self, name: str, most: int = MAX_MEMBER) -> bytes:
        """A member's content.

        Raises:
            ConfigError: there is none of that name, it is damaged, or it is longer than `most` bytes.
        """
        try:
            with self._zip.open(self._full[name]) as member:
                content = member.read(most + 1)
        except (KeyError, zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, OSError) as error:
            raise ConfigError(f"'{name}' in '{self._path}' cannot be read: {error}") from None
        if len(content) > most:
            raise ConfigError(f"'{name}' in '{self._path}' has more than {most} bytes")
        return content

    def json(self, name: str) -> Any:
        """A member's content as JSON.

        Raises:
            ConfigError: see `read`, or it is not JSON.
        """
        try:
            return orjson.loads(self.read(name))
        except orjson.JSONDecodeError as error:
            raise ConfigError(f"'{name}' in '{self._path}' is not JSON: {error}") from None

    def matching(self, prefix: str, suffix: str) -> Iterator[str]:
        """The names that begin and end so, in order."""
        return (name for name in sorted(self.names) if name.startswith(prefix) and name.endswith(suffix))


def inner(name: str) -> str:
    """A member's name without the archive's outer folder; archives before torch 2.8 have none."""
    outer, slash, rest = name.partition("/")
    return rest if slash and outer not in ("models", "data", "extra_files", "extra") else name
