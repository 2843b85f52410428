"""Which folders of a repository are models': all but those that tools and file systems leave there.

A folder that could be a model's and is not complete is a model with a reason, so that a mistake is not passed over in silence.
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Final

from protocol.errors import ConfigError
from workers.repository.completion import FILE_BACKEND, SUFFIX_BACKEND

CONFIG_FILE: Final = "config.pbtxt"

_FOREIGN: Final = frozenset(
    {"lost+found", "__MACOSX", "__pycache__", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "node_modules"}
)


@dataclasses.dataclass(frozen=True, slots=True)
class Contents:
    """What lies in a repository.

    Attributes:
        models: folders to look into.
        broken: why a folder cannot be a model's though it is meant to be, by its path.
        ignored: a line for each folder that is passed over; hidden ones need none.
    """

    models: tuple[Path, ...]
    broken: dict[Path, str]
    ignored: tuple[str, ...]


def contents(repository: Path) -> Contents:
    """Sort the entries of a repository.

    Raises:
        ConfigError: it is not a folder that can be read, or is itself a model's or a version's folder.
    """
    try:
        entries = sorted(repository.iterdir())
        _require_repository(repository, entries)
        return _sorted([path for path in entries if not path.name.startswith(".")])
    except (FileNotFoundError, NotADirectoryError):
        raise ConfigError(f"model repository '{repository}' is not a folder") from None
    except OSError as error:
        place = error.filename or repository
        raise ConfigError(f"model repository '{repository}' cannot be read: '{place}': {error.strerror}") from None


def _sorted(entries: list[Path]) -> Contents:
    models: list[Path] = []
    broken: dict[Path, str] = {}
    ignored: list[str] = []
    for path in entries:
        if path.is_symlink() and not path.exists():
            broken[path] = f"'{shown(path)}' is a link to '{shown(path.readlink())}', which is not there"
        elif path.is_dir() and path.name in _FOREIGN:
            ignored.append(f"ignore folder '{shown(path)}': a tool or the file system made it")
        elif path.is_dir():
            _judge(path, models, broken, ignored)
    return Contents(tuple(models), broken, tuple(ignored))


def config_bytes(folder: Path, limit: int) -> bytes:
    """The content of a model's config.pbtxt, at most so many bytes; empty where there is none.

    Raises:
        ConfigError: there is something of that name, and it is no file.
        OSError: it cannot be read.
    """
    path = folder / CONFIG_FILE
    if not _present(path):
        return b""
    if not path.exists():
        raise ConfigError(f"'{shown(path)}' is a link to '{shown(path.readlink())}', which is not there")
    if not path.is_file():
        raise ConfigError(f"'{path}' is not a file")
    with path.open("rb") as file:
        return file.read(limit)


def shown(path: Path) -> str:
    """The path as text that can be printed and sent, also where its name is not UTF-8."""
    return os.fsencode(path).decode(errors="backslashreplace")


def _present(path: Path) -> bool:
    return os.path.lexists(path)


def _require_repository(repository: Path, entries: list[Path]) -> None:
    """Guard against the folder below the one that is meant."""
    if _present(repository / CONFIG_FILE) or _versions_alone(entries):
        above = repository.absolute().parent
        raise ConfigError(f"'{repository}' is a model's folder; give the folder above it, '{above}', as the repository")
    if not any(path.is_dir() for path in entries):
        for path in entries:
            if path.suffix in SUFFIX_BACKEND:
                raise ConfigError(
                    f"'{repository}' holds a model file and no model folders; serve the file: penstock serve {path}, or lay it out "
                    f"as REPOSITORY/{path.stem}/1/{_usual_name(path)}"
                )


def _versions_alone(entries: list[Path]) -> bool:
    """Whether these are the versions of one model without a configuration."""
    folders = [path for path in entries if path.is_dir() and not path.name.startswith(".")]
    return bool(folders) and all(
        path.name.isdecimal() and any((path / name).exists() for name in FILE_BACKEND) for path in folders
    )


def _usual_name(path: Path) -> str:
    return f"model{path.suffix}"


def _judge(folder: Path, models: list[Path], broken: dict[Path, str], ignored: list[str]) -> None:
    """A configuration or a version makes it a model's; a model file in the wrong place shows that it is meant to be one."""
    try:
        entries = sorted(folder.iterdir())
    except OSError:  # its own reason, where it is looked into
        models.append(folder)
        return
    folders = [path for path in entries if path.is_dir()]
    if _present(folder / CONFIG_FILE) or any(path.name.isdecimal() for path in folders):
        models.append(folder)
        return
    files = [path for path in entries if path.suffix in SUFFIX_BACKEND and path.is_file()]
    inside = [path for path in folders if any((path / name).is_file() for name in FILE_BACKEND)]
    if files:
        broken[folder] = (
            f"its file belongs into a version's folder: move '{files[0]}' to '{folder / '1' / _usual_name(files[0])}'"
        )
    elif inside:
        broken[folder] = f"a version's folder is called by a number: rename '{inside[0]}' to '{folder / '1'}'"
    else:
        ignored.append(
            f"ignore folder '{shown(folder)}': it has no {CONFIG_FILE}, no version folder such as '1', and no model file"
        )
