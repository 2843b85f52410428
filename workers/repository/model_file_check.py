"""Checks model files by their first bytes, before any backend imports its framework."""

from __future__ import annotations

import contextlib
import os
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from protocol.errors import ConfigError
from workers.repository import file_advice, pickles, sniffing
from workers.repository.pickles import Content
from workers.repository.sniffing import FileKind, Recognised

_FORMATS: Final = {"onnxruntime": ".onnx", "python": ".py"}
"""The format of a backend's files, whatever their names; PyTorch's backend goes by the suffix."""
_POINTER: Final = 1024
"""Bytes; every Git LFS pointer is smaller."""


def recognised(path: Path) -> Recognised:
    """What the file is; of what torch.save wrote, also the pickle's opcodes are read.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        head = file.read(sniffing.HEAD)
        archive = None
        if head.startswith(b"PK"):
            with contextlib.suppress(zipfile.BadZipFile, ValueError, NotImplementedError, EOFError):
                archive = zipfile.ZipFile(file)
        kind = sniffing.recognise(head, None if archive is None else archive.namelist())
        if kind not in (FileKind.TORCH_SAVE, FileKind.PICKLE):
            return Recognised(kind)
        if archive is None:
            found = pickles.summary(head + file.read(pickles.MAX_PICKLE), legacy=kind is FileKind.TORCH_SAVE)
        else:
            found = pickles.summary(_pickle_in(archive))
        if kind is FileKind.PICKLE and found.content is not Content.MODULE:
            return Recognised(kind)
        return sniffing.of_pickle(found)


def _pickle_in(archive: zipfile.ZipFile) -> bytes:
    """The beginning of the archive's `data.pkl`; empty if it cannot be read."""
    name = next((name for name in archive.namelist() if name.rpartition("/")[2] == "data.pkl"), "")
    try:
        with archive.open(name) as member:
            return member.read(pickles.MAX_PICKLE)
    except (KeyError, zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, OSError, zlib.error):
        return b""


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
        found = recognised(path)
        if problem := file_advice.format_problem(found, format_):
            return f"'{path}' {problem}{export_lines(found, path)}"
        return next(
            (
                f"'{file}' is {FileKind.LFS_POINTER.value}; {file_advice.advice(FileKind.LFS_POINTER)}"
                for file in _pointers(path, single_file)
            ),
            "",
        )
    except OSError as error:
        return f"'{path}' cannot be read: {error.strerror}"


def export_lines(found: Recognised, path: Path) -> str:
    """The lines of `file_advice.snippet`, indented on lines of their own after a colon; "" if there are none."""
    lines = file_advice.snippet(found, path.name).splitlines()
    return ":\n" + "\n".join(f"    {line}" for line in lines) if lines else ""


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
            if path != model and recognised(path).kind is FileKind.LFS_POINTER:
                yield path
