"""What was probably meant by a path that is not what a command takes: reads folders, and never more than a few hundred entries."""

from __future__ import annotations

import itertools
import re
import shlex
from pathlib import Path
from typing import Final

from penstock.cli import known_folders
from penstock.cli.known_folders import quoted
from penstock.paths import LOOKED_AT, entries, similar
from protocol.errors import ConfigError
from workers.repository.completion import FILE_BACKEND, SUFFIX_BACKEND
from workers.repository.folders import list_repository

_ADDRESS: Final = re.compile(r"([^/=]*=)?(?P<address>(?P<scheme>[A-Za-z][A-Za-z0-9]*)://.+)")
_CODE: Final = ".py"
"""A suffix that is a model's only if the whole name is."""


def for_file(folder: Path) -> str:
    """Advice for a folder given instead of a model file."""
    if text := known_folders.of_others(folder):
        return text
    if file := model_file(folder):
        several = file.name not in FILE_BACKEND and len(_model_files(folder)) > 1
        which = "name the file to serve, such as" if several else "serve the file in it"
        return f"{which}: penstock serve {quoted(file)}"
    if text := known_folders.without_a_file(folder):
        return text
    if repository := repository_in(folder):
        return f"serve the repository in it: penstock serve --model-repository {quoted(repository)}"
    if holds_models(folder):
        return f"a repository of model folders is served with: penstock serve --model-repository {quoted(folder)}"
    return f"it has no model in it; make a first one with: penstock new NAME --model-repository {quoted(folder)}"


def for_repository(path: Path) -> str:
    """Advice for a path that is no folder, given as a repository."""
    if path.is_file():
        text = f"'{path}' is a file, and a model repository is a folder of model folders"
        return f"{text}; to serve the file: penstock serve {quoted(path)}" if path.suffix in SUFFIX_BACKEND else text
    return f"there is no folder '{path}'{similar(path)}"


def without_models(folder: Path, command: str) -> str:
    """The end of a sentence about a repository without models: what to do instead.

    Args:
        folder: the repository.
        command: the command line, to which a better repository is added.
    """
    if repository := repository_in(folder):
        return f"; the models are in '{repository}': {command} {quoted(repository)}"
    return f"; make a first one with: penstock new NAME --model-repository {quoted(folder)}"


def model_file(folder: Path) -> Path | None:
    """The model file in a folder, by its usual name or else its suffix."""
    usual = [folder / name for name in FILE_BACKEND if (folder / name).is_file()]
    return next((file for file in (*usual, *_model_files(folder)) if file.is_file()), None)


def _model_files(folder: Path) -> list[Path]:
    """By their suffixes."""
    return [entry for entry in entries(folder) if entry.suffix in SUFFIX_BACKEND and entry.suffix != _CODE]


def for_address(text: str) -> str:
    """Advice for a URL given instead of a model file; "" if it is none."""
    found = _ADDRESS.fullmatch(text)
    if found is None:
        return ""
    address, scheme = found["address"], found["scheme"].lower()
    if scheme == "s3":
        command = f"penstock serve --model-repository {shlex.quote(address)}"
        return f"'{text}' is in an object store, from which model repositories are served: {command}"
    download = f": curl -fLO {shlex.quote(address)}" if scheme in ("http", "https") else ""
    return f"'{text}' is an address, and a model is served from a file of this machine; download it first{download}"


def repository_in(folder: Path) -> Path | None:
    """A folder in this one, or in one of those, that holds model folders."""
    inside = [entry for entry in entries(folder) if entry.is_dir()]
    below = itertools.chain.from_iterable(entries(entry) for entry in inside)
    found = (
        entry for entry in (*inside, *itertools.islice(below, LOOKED_AT)) if entry.is_dir() and holds_models(entry)
    )
    return next(found, None)


def holds_models(folder: Path) -> bool:
    """Whether it is a repository with at least one model."""
    try:
        listing = list_repository(folder)
    except ConfigError:
        return False
    return bool(listing.models)
