"""Checks model files by their first bytes, before any backend imports its framework."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from protocol.errors import ConfigError
from workers.repository import sniffing
from workers.repository.sniffing import FileKind

_FORMATS: Final = {"onnxruntime": ".onnx", "python": ".py"}
"""The format of a backend's files, whatever their names; PyTorch's backend goes by the suffix."""
_POINTER: Final = 1024
"""Bytes; every Git LFS pointer is smaller."""


def file_kind(path: Path) -> FileKind:
    """The kind of the file.

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


def load_problem(path: Path, backend: str, *, single_file: bool = False) -> str:
    """Why the backend cannot load the file, and what to do; "" if nothing is wrong, or there is no such file.

    Args:
        path: of the model file.
        backend: its name.
        single_file: of the files beside it, only those whose names begin with its name belong to it.
    """
    if path.is_symlink() and not path.exists():
        return f"'{path}' is a link to '{path.readlink()}', which does not exist"
    if not path.is_file():
        return ""
    format_ = _FORMATS.get(backend, "")
    if backend == "pytorch":
        format_ = ".pt2" if path.suffix == ".pt2" else ".pt"
    try:
        if found := sniffing.format_problem(file_kind(path), format_):
            return f"'{path}' cannot be loaded: {found}"
        return next(
            (
                f"'{file}' is {FileKind.LFS_POINTER.value}; {sniffing.advice(FileKind.LFS_POINTER)}"
                for file in _pointers(path, single_file)
            ),
            "",
        )
    except OSError as error:
        return f"'{path}' cannot be read: {error.strerror}"


def require_loadable(path: Path, backend: str, *, single_file: bool = False) -> None:
    """See `load_problem`.

    Raises:
        ConfigError: the file cannot be loaded.
    """
    if problem := load_problem(path, backend, single_file=single_file):
        raise ConfigError(problem)


def _pointers(model: Path, single_file: bool) -> Iterator[Path]:
    """Git LFS pointers among the files that belong to the model, such as ONNX's external data."""
    for entry in sorted(os.scandir(model.parent), key=lambda entry: entry.name):
        if single_file and not entry.name.startswith(model.name):
            continue
        if entry.is_file() and 0 < entry.stat().st_size < _POINTER:
            path = Path(entry.path)
            if path != model and file_kind(path) is FileKind.LFS_POINTER:
                yield path
