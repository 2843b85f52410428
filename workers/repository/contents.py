"""Looks into model files before a backend, and the framework that it imports, is asked for anything."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from protocol.errors import ConfigError
from workers.repository import sniffing
from workers.repository.sniffing import Kind

_FORMATS: Final = {"onnxruntime": ".onnx", "python": ".py"}
"""What the files of a backend are, whatever they are called; PyTorch's backend goes by the suffix."""
_POINTER: Final = 1024
"""Bytes that no Git LFS pointer has."""


def kind_of(path: Path) -> Kind:
    """What a file is.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        head = file.read(sniffing.HEAD)
        members = None
        if head.startswith(b"PK"):
            try:
                members = zipfile.ZipFile(file).namelist()
            except (zipfile.BadZipFile, ValueError, NotImplementedError, EOFError):
                members = None
    return sniffing.recognise(head, members)


def problem_of(path: Path, backend: str, *, alone: bool = False) -> str:
    """Why the backend cannot load the file, and what to do; "" where nothing speaks against it, or there is no such file.

    Args:
        path: of the model file.
        backend: that is to load it.
        alone: what lies beside it belongs to others, but for files that are called as it is with something behind.
    """
    if path.is_symlink() and not path.exists():
        return f"'{path}' is a link to '{path.readlink()}', which is not there"
    if not path.is_file():
        return ""
    format_ = _FORMATS.get(backend, "")
    if backend == "pytorch":
        format_ = ".pt2" if path.suffix == ".pt2" else ".pt"
    try:
        if found := sniffing.problem(kind_of(path), format_):
            return f"'{path}' cannot be loaded: {found}"
        return next(
            (
                f"'{file}' is {Kind.LFS_POINTER.value}; {sniffing.advice(Kind.LFS_POINTER)}"
                for file in _pointers(path, alone)
            ),
            "",
        )
    except OSError as error:
        return f"'{path}' cannot be read: {error.strerror}"


def require_loadable(path: Path, backend: str, *, alone: bool = False) -> None:
    """See `problem_of`.

    Raises:
        ConfigError: it cannot be loaded.
    """
    if problem := problem_of(path, backend, alone=alone):
        raise ConfigError(problem)


def _pointers(model: Path, alone: bool) -> Iterator[Path]:
    """Files that belong to the model, such as ONNX's external data, and that Git LFS has not fetched."""
    for entry in sorted(os.scandir(model.parent), key=lambda entry: entry.name):
        if alone and not entry.name.startswith(model.name):
            continue
        if entry.is_file() and 0 < entry.stat().st_size < _POINTER:
            path = Path(entry.path)
            if path != model and kind_of(path) is Kind.LFS_POINTER:
                yield path
