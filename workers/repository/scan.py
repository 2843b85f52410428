"""Reads model repositories: folders of model folders, each with an optional config.pbtxt and one folder per version.

    <repository>/<model>/config.pbtxt
    <repository>/<model>/<version>/model.onnx | model.pt | model.pt2 | model.py | …

Invariants: scanning imports no framework and changes nothing; a fault in one model is that model's `reason` and never keeps
another from being served. Symbolic links are followed, even out of the repository, since operators build repositories that way:
write access to a repository is read access to the worker's files.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import os
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import orjson

from protocol.errors import ConfigError
from protocol.model_config import ModelConfig, pbtxt
from protocol.model_config.document import MAX_INT64
from workers.repository import file_advice
from workers.repository.completion import (
    SUFFIX_BACKEND,
    infer_backend,
)
from workers.repository.digests import Digests
from workers.repository.folders import CONFIG_FILE, config_bytes, config_file, list_repository
from workers.repository.model_file_check import export_lines, recognised
from workers.repository.model_files import ModelFile
from workers.repository.sniffing import FileKind
from workers.repository.stated_inputs import input_text
from workers.repository.version import ModelFolder, ModelVersion

_VERSION: Final = re.compile(r"0|[1-9][0-9]{0,18}", re.ASCII)
_BACKENDS: Final = frozenset({"onnxruntime", "pytorch", "python"})
"""Backends whose suffixes are worth naming: those that are ours."""
_IN_FOLDER: Final = "model.onnx"
"""The file in a folder that has the model file's name: Triton's layout for ONNX with external data."""
_NOT_VERSIONS: Final = frozenset({"configs", "warmup", "initial_state", "__pycache__"})


def scan_repositories(
    repositories: Sequence[Path], *, digests: bool = True, known: Digests | None = None, config_name: str = ""
) -> tuple[ModelFolder, ...]:
    """Every model of the repositories, by name.

    Args:
        repositories: folders; a model that is in two of them is not served.
        digests: whether to digest the versions' files.
        known: digests of earlier scans; only files that have changed are read.
        config_name: read a model's `configs/<name>.pbtxt` instead of its config.pbtxt, where it has one.

    Raises:
        ConfigError: a repository is not a readable folder, or is itself a model's folder.
    """
    places: dict[str, list[Path]] = collections.defaultdict(list)
    broken: dict[Path, str] = {}
    for repository in repositories:
        found = list_repository(repository)
        broken |= found.broken
        for folder in (*found.models, *found.broken):
            places[folder.name].append(folder)
    reader = (known or Digests()) if digests else None
    return tuple(_model(places[name], broken, reader, config_name) for name in sorted(places))


def ignored_folders(repositories: Sequence[Path]) -> tuple[str, ...]:
    """A line for each folder that `scan_repositories` skips because it is not a model's.

    Raises:
        ConfigError: see `scan_repositories`.
    """
    return tuple(line for repository in repositories for line in list_repository(repository).ignored)


def _model(
    folders: Sequence[Path], broken: Mapping[Path, str], digests: Digests | None, config_name: str
) -> ModelFolder:
    folder = folders[0]
    if len(folders) > 1:
        where = ", ".join(str(path) for path in folders)
        return ModelFolder(folder.name, folder, reason=f"model appears in two or more repositories: {where}")
    try:
        folder.name.encode()
    except UnicodeEncodeError:
        shown = os.fsencode(folder.name).decode(errors="backslashreplace")
        return ModelFolder(shown, folder, reason="the folder's name is not UTF-8; rename it")
    if folder in broken:
        return ModelFolder(folder.name, folder, reason=broken[folder])
    warnings: list[str] = []
    try:
        versions = _versions(folder, warnings, digests, config_name)
        return ModelFolder(folder.name, folder, versions, warnings=tuple(warnings))
    except ConfigError as error:
        return ModelFolder(folder.name, folder, reason=error.message, warnings=tuple(warnings))
    except OSError as error:
        reason = f"'{error.filename or folder}' cannot be read: {error.strerror}"
        return ModelFolder(folder.name, folder, reason=reason, warnings=tuple(warnings))


def _versions(folder: Path, warnings: list[str], digests: Digests | None, config_name: str) -> tuple[ModelVersion, ...]:
    file = config_file(folder, config_name)
    raw = config_bytes(folder, pbtxt.MAX_BYTES + 1, file)
    config = pbtxt.parse(raw, file, folder.name)
    return _chosen_versions(folder, config, raw, warnings, digests)


def _chosen_versions(
    folder: Path, config: ModelConfig, raw: bytes, warnings: list[str], digests: Digests | None
) -> tuple[ModelVersion, ...]:
    """The versions that the policy chooses of those that are there; `raw` is the configuration's bytes, for the digest."""
    present = dict(_version_folders(folder, warnings))
    chosen = config.version_policy.select(present)
    absent = [version for version in config.version_policy.specific or () if version not in present]
    warnings.extend(f"version {version} is specified, but the version directory is not present" for version in absent)
    if not chosen:
        raise ConfigError(f"at least one version must be available under the version policy of model '{config.name}'")
    return tuple(
        _version(folder, version, present[version], infer_backend(config, _names(present[version])), raw, digests)
        for version in chosen
    )


def _version(
    folder: Path, version: int, path: Path, config: ModelConfig, raw: bytes, digests: Digests | None
) -> ModelVersion:
    digest = "" if digests is None else digests.digest_of(_files(path), path, raw)
    beside = _files_beside(folder, config)
    if digests is not None and beside:
        digest = digests.digest_of(beside, folder, digest.encode())
    file = path / config.default_model_filename
    if config.backend == "onnxruntime" and (file / _IN_FOLDER).is_file():
        file /= _IN_FOLDER
    return ModelVersion(config.name, version, file, folder, config, digest)


def _files_beside(folder: Path, config: ModelConfig) -> list[Path]:
    """The files outside the versions' folders that a load reads: labels and the data of warm-up requests."""
    labels = [folder / spec.label_filename for spec in config.outputs if spec.label_filename]
    data = [folder / "warmup" / each.file for warmup in config.warmups for each in warmup.inputs.values() if each.file]
    return sorted({path for path in (*labels, *data) if path.is_file()})


def scan_replaced(name: str, folder: Path, document: str, known: Digests | None = None) -> ModelFolder:
    """A model whose configuration comes from a load call instead of its config.pbtxt.

    Args:
        name: of the model.
        folder: with one folder per version.
        document: the configuration, in Triton's JSON form.
        known: see `scan_repositories`.
    """
    warnings: list[str] = []
    try:
        config = _replaced_config(name, document)
        versions = _chosen_versions(folder, config, document.encode(), warnings, known or Digests())
        return ModelFolder(name, folder, versions, warnings=tuple(warnings))
    except ConfigError as error:
        return ModelFolder(name, folder, reason=error.message, warnings=tuple(warnings))
    except OSError as error:
        reason = f"'{error.filename or folder}' cannot be read: {error.strerror}"
        return ModelFolder(name, folder, reason=reason, warnings=tuple(warnings))


def _replaced_config(name: str, document: str) -> ModelConfig:
    try:
        config = ModelConfig.from_json(orjson.loads(document))
    except orjson.JSONDecodeError as error:
        raise ConfigError(f"the configuration of the load call is not JSON: {error}") from None
    if config.name not in ("", name):
        raise ConfigError(f"the configuration of the load call is of model '{config.name}', not of '{name}'")
    return dataclasses.replace(config, name=name)


def _names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def _version_folders(folder: Path, warnings: list[str]) -> Iterator[tuple[int, Path]]:
    for path in sorted(folder.iterdir()):
        name = path.name
        if name in _NOT_VERSIONS or name.startswith(".") or not path.is_dir():
            if name.isdecimal() and path.is_symlink() and not path.exists():
                warnings.append(f"ignore version '{name}', a link to '{path.readlink()}', which does not exist")
            continue
        if _VERSION.fullmatch(name) and int(name) <= MAX_INT64:
            yield int(name), path
        elif name.isdecimal() and name.startswith("0"):
            warnings.append(f"ignore version directory '{name}' which contains leading zeros in its directory name")
        else:
            warnings.append(f"ignore version directory '{name}' which fails to convert to integral number")


def _files(folder: Path) -> Iterator[Path]:
    """The regular files below a folder; each folder once, however many links lead to it."""
    seen: set[tuple[int, int]] = set()
    for root, folders, names in os.walk(folder, followlinks=True):
        status = Path(root).stat()
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if name != "__pycache__")
        yield from (path for path in (Path(root) / name for name in sorted(names)) if path.is_file())


def scan_file(file: ModelFile, known: Digests | None = None) -> ModelVersion:
    """A model that is one file, without a repository: version 1, with its whole configuration to be completed.

    Args:
        file: with the model's name.
        known: see `scan_repositories`.

    Raises:
        ConfigError: it is not a file, or no backend has its suffix.
    """
    path = file.path
    backend = SUFFIX_BACKEND.get(path.suffix.lower())
    if backend is None:
        raise ConfigError(_no_model(path))
    if not path.is_file():
        raise ConfigError(
            f"'{path}' is not a file, but a pipe or a device" if path.exists() else f"there is no file '{path}'"
        )
    config = ModelConfig(
        name=file.name, backend=backend, batch_size_stated=False, default_model_filename=path.name, inputs=file.inputs
    )
    folder = path.absolute().parent
    try:
        stated = " ".join(map(input_text, file.inputs)).encode()
        digest = (known or Digests()).digest_of([folder / path.name], folder, stated)
    except OSError as error:
        raise ConfigError(f"'{path}' cannot be read: {error.strerror}") from None
    return ModelVersion(file.name, 1, folder / path.name, folder, infer_backend(config, [path.name]), digest)


def _no_model(path: Path) -> str:
    """Why a file without a known suffix is not served: what it is and what to do with it, if that is known."""
    if path.name == CONFIG_FILE and path.is_file():
        return (
            f"'{path}' is a model's configuration; serve the repository that the model is in: penstock serve --model-repository "
            f"{shlex.quote(str(path.absolute().parents[1]))}"
        )
    with contextlib.suppress(OSError):
        if path.is_file() and (found := recognised(path)).kind is not FileKind.UNKNOWN:  # opening a pipe would block
            if found.kind is FileKind.EMPTY:
                return f"'{path}' is empty; {file_advice.advice(found.kind)}"
            if suffix := file_advice.suffix(found.kind):
                move = f"mv -n {shlex.quote(str(path))} {shlex.quote(str(_renamed(path, suffix)))}"
                return f"'{path}' is {found}, and a file's suffix says how to load it; rename it: {move}"
            return (
                f"'{path}' cannot be served: it is {found}; {file_advice.advice(found.kind)}{export_lines(found, path)}"
            )
    served = [suffix for suffix, backend in SUFFIX_BACKEND.items() if backend in _BACKENDS]
    return f"'{path}' is not a model file; known suffixes are: {', '.join(served)}"


def _renamed(path: Path, suffix: str) -> Path:
    """The path with this suffix in place of its own; `model.onnx` for `model.onnx.bak` and `.onnx`."""
    name = path.stem if path.suffix[1:].isalpha() else path.name
    stem = name.removesuffix(suffix) or "model"
    return path.with_name(f"{stem}{suffix}")
