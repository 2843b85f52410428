"""Which folders of a repository are models': all except those that tools and file systems create.

An incomplete folder that looks like a model's becomes a model with a `reason`, so that a mistake is reported.
"""

from __future__ import annotations

import dataclasses
import os
import shlex
from pathlib import Path
from typing import Final

from protocol.errors import ConfigError
from workers.repository.completion import FILE_BACKEND, SUFFIX_BACKEND

CONFIG_FILE: Final = "config.pbtxt"

FOREIGN: Final = frozenset(
    {"lost+found", "__MACOSX", "__pycache__", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "node_modules"}
)


@dataclasses.dataclass(frozen=True, slots=True)
class RepositoryListing:
    """The folders of a repository.

    Attributes:
        models: folders to scan.
        broken: by path, why a folder that looks like a model's is not one.
        ignored: a line for each folder that is skipped; hidden folders have none.
    """

    models: tuple[Path, ...]
    broken: dict[Path, str]
    ignored: tuple[str, ...]


def list_repository(repository: Path) -> RepositoryListing:
    """Sort the entries of a repository.

    Raises:
        ConfigError: it is not a readable folder, or is itself a model's or a version's folder.
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


def _sorted(entries: list[Path]) -> RepositoryListing:
    models: list[Path] = []
    broken: dict[Path, str] = {}
    ignored: list[str] = []
    for path in entries:
        if path.is_symlink() and not path.exists():
            broken[path] = (
                f"'{printable_path(path)}' is a link to '{printable_path(path.readlink())}', which does not exist"
            )
        elif path.is_dir() and path.name in FOREIGN:
            ignored.append(f"ignore folder '{printable_path(path)}': a tool or the file system made it")
        elif path.is_dir():
            _classify_folder(path, models, broken, ignored)
    return RepositoryListing(tuple(models), broken, tuple(ignored))


def config_file(folder: Path, name: str) -> str:
    """The path, below a model's folder, of its configuration: `configs/<name>.pbtxt` if that is there, else config.pbtxt."""
    custom = f"configs/{name}.pbtxt"
    return custom if name and _present(folder / custom) else CONFIG_FILE


def config_bytes(folder: Path, limit: int, file: str = CONFIG_FILE) -> bytes:
    """The content of a model's configuration, at most `limit` bytes; empty if there is none.

    Raises:
        ConfigError: something of that name is not a file.
        OSError: it cannot be read.
    """
    path = folder / file
    if not _present(path):
        return b""
    if not path.exists():
        raise ConfigError(
            f"'{printable_path(path)}' is a link to '{printable_path(path.readlink())}', which does not exist"
        )
    if not path.is_file():
        raise ConfigError(f"'{path}' is not a file")
    with path.open("rb") as stream:
        return stream.read(limit)


def printable_path(path: Path) -> str:
    """The path as text that can be printed and sent, even if it is not UTF-8."""
    return os.fsencode(path).decode(errors="backslashreplace")


def _present(path: Path) -> bool:
    return os.path.lexists(path)


def _require_repository(repository: Path, entries: list[Path]) -> None:
    """Refuse a folder that is not the repository but one below it."""
    if _present(repository / CONFIG_FILE) or _versions_alone(entries):
        above = repository.absolute().parent
        raise ConfigError(f"'{repository}' is a model's folder; give the folder above it, '{above}', as the repository")
    if not any(path.is_dir() for path in entries):
        for path in entries:
            if path.suffix in SUFFIX_BACKEND:
                command = f"penstock serve {shlex.quote(str(path))}"
                raise ConfigError(
                    f"'{repository}' holds a model file and no model folders; serve the file: {command}, or lay it out as "
                    f"REPOSITORY/{path.stem}/1/{_usual_name(path)}"
                )


def _versions_alone(entries: list[Path]) -> bool:
    """Whether these are the versions of one model without a configuration."""
    folders = [path for path in entries if path.is_dir() and not path.name.startswith(".")]
    return bool(folders) and all(
        path.name.isdecimal() and any((path / name).exists() for name in FILE_BACKEND) for path in folders
    )


def _looks_like_a_model(path: Path) -> bool:
    """Whether its name is a model file's; any other Python file may be anything."""
    return path.suffix in SUFFIX_BACKEND and (path.suffix != ".py" or path.name in FILE_BACKEND)


def _usual_name(path: Path) -> str:
    return f"model{path.suffix}"


def _classify_folder(folder: Path, models: list[Path], broken: dict[Path, str], ignored: list[str]) -> None:
    """A configuration or a version makes a folder a model's; a model file in the wrong place makes it a broken one."""
    try:
        entries = sorted(folder.iterdir())
    except OSError:  # `scan` reports it as the model's reason
        models.append(folder)
        return
    folders = [path for path in entries if path.is_dir()]
    if _present(folder / CONFIG_FILE) or any(path.name.isdecimal() for path in folders):
        models.append(folder)
        return
    files = [path for path in entries if _looks_like_a_model(path) and path.is_file()]
    inside = [path for path in folders if any((path / name).is_file() for name in FILE_BACKEND)]
    if files:
        broken[folder] = (
            f"its file belongs in a version's folder: move '{files[0]}' to '{folder / '1' / _usual_name(files[0])}'"
        )
    elif inside:
        broken[folder] = f"a version's folder is named by a number: rename '{inside[0]}' to '{folder / '1'}'"
    else:
        ignored.append(
            f"ignore folder '{printable_path(folder)}': it has no {CONFIG_FILE}, no version folder such as '1', and no model file"
        )
