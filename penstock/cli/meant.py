"""What was probably meant by a path that is not what a command takes: reads folders, and never more than a few hundred entries."""

from __future__ import annotations

import itertools
import shlex
from pathlib import Path
from typing import Final

from penstock.paths import LOOKED_AT, entries, similar
from protocol.errors import ConfigError
from workers.repository.completion import FILE_BACKEND, SUFFIX_BACKEND
from workers.repository.folders import CONFIG_FILE, list_repository

_CODE: Final = ".py"
"""A suffix that is a model's only if the whole name is."""


def for_file(folder: Path) -> str:
    """Advice for a folder given instead of a model file."""
    if (folder / "saved_model.pb").is_file():
        return (
            "it is a TensorFlow SavedModel: pip install tf2onnx && "
            f"python -m tf2onnx.convert --saved-model {_quoted(folder)} --output model.onnx, then serve model.onnx"
        )
    if (folder / "Data/com.apple.CoreML").is_dir():
        return "it is a Core ML package, which only Apple's systems run; export the model that it was made from to ONNX"
    if file := model_file(folder):
        return f"serve the file in it: penstock serve {_quoted(file)}"
    if (folder / CONFIG_FILE).is_file():
        above = folder.absolute().parent
        return f"it is a model of the repository above it: penstock serve --model-repository {_quoted(above)}"
    if repository := repository_in(folder):
        return f"serve the repository in it: penstock serve --model-repository {_quoted(repository)}"
    if holds_models(folder):
        return f"a repository of model folders is served with: penstock serve --model-repository {_quoted(folder)}"
    return f"it has no model in it; make a first one with: penstock new NAME --model-repository {_quoted(folder)}"


def for_repository(path: Path) -> str:
    """Advice for a path that is no folder, given as a repository."""
    if path.is_file():
        text = f"'{path}' is a file, and a model repository is a folder of model folders"
        return f"{text}; to serve the file: penstock serve {_quoted(path)}" if path.suffix in SUFFIX_BACKEND else text
    return f"there is no folder '{path}'{similar(path)}"


def without_models(folder: Path, command: str) -> str:
    """The end of a sentence about a repository without models: what to do instead.

    Args:
        folder: the repository.
        command: the command line, to which a better repository is added.
    """
    if repository := repository_in(folder):
        return f"; the models are in '{repository}': {command} {_quoted(repository)}"
    return f"; make a first one with: penstock new NAME --model-repository {_quoted(folder)}"


def model_file(folder: Path) -> Path | None:
    """The model file in a folder, by its usual name or else its suffix."""
    usual = [folder / name for name in FILE_BACKEND if (folder / name).is_file()]
    others = [entry for entry in entries(folder) if entry.suffix in SUFFIX_BACKEND and entry.suffix != _CODE]
    return next((file for file in (*usual, *others) if file.is_file()), None)


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


def _quoted(path: Path) -> str:
    """As a shell takes it."""
    return shlex.quote(str(path))
