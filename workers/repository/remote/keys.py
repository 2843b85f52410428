"""From the objects of a bucket to the files of its models. Keys are strangers' input. Pure.

Invariant: every path that is handed out has only plain parts, below its model's folder; no path is both a file and a folder.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection, Iterable, Mapping
from typing import Final

from protocol.errors import ConfigError, quoted
from protocol.model_config import ModelConfig
from protocol.model_config.document import MAX_INT64
from workers.repository.completion import FILE_BACKEND, SUFFIX_BACKEND
from workers.repository.folders import CONFIG_FILE, FOREIGN

MAX_OBJECTS: Final = 100_000
"""Objects of a repository that are listed."""
MAX_FILES: Final = 10_000
"""Files of one model."""
_MAX_DEPTH: Final = 16
_MAX_PART: Final = 255
"""Bytes of a name in a folder, as file systems have it."""
_VERSION: Final = re.compile(r"(?:0|[1-9][0-9]{0,18})\Z", re.ASCII)


@dataclasses.dataclass(frozen=True, slots=True)
class RemoteObject:
    """An object as listed.

    Attributes:
        etag: changes with its content; without quotes.
    """

    key: str
    size: int
    etag: str


@dataclasses.dataclass(slots=True)
class RemoteModel:
    """A model's files.

    Attributes:
        files: by path below the model's folder.
        folders: that exist though they may be empty.
        reason: why it cannot be served; "" if it can.
    """

    files: dict[str, RemoteObject] = dataclasses.field(default_factory=dict)
    folders: set[str] = dataclasses.field(default_factory=set)
    reason: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class RemoteListing:
    """A repository's models by name, and a line for each key that is skipped (at most `SHOWN`)."""

    models: dict[str, RemoteModel]
    ignored: tuple[str, ...]


SHOWN: Final = 20


def models_of(objects: Iterable[RemoteObject], prefix: str) -> RemoteListing:
    """Sort the objects below a prefix.

    Raises:
        ConfigError: there are too many, or the prefix is a model's folder rather than a repository's.
    """
    sorting = _Sorting(f"{prefix}/" if prefix else "")
    for count, each in enumerate(objects):
        if count >= MAX_OBJECTS:
            raise ConfigError(f"the repository has more than {MAX_OBJECTS} objects; give a longer prefix")
        sorting.add(each)
    return sorting.listing()


class _Sorting:
    """Objects on their way to models."""

    def __init__(self, start: str) -> None:
        self._start = start
        self._models: dict[str, RemoteModel] = {}
        self._ignored: dict[str, None] = {}

    def add(self, each: RemoteObject) -> None:
        if not each.key.startswith(self._start):
            return
        name, slash, path = each.key.removeprefix(self._start).partition("/")
        if not slash:
            self._add_loose(name, each)
        elif _part_problem(name):
            self._ignore(f"ignore objects of {quoted(name)}: {_part_problem(name)}, so it cannot be a model's name")
        elif not name.startswith(".") and name not in FOREIGN:
            _add(self._models.setdefault(name, RemoteModel()), path, each)

    def listing(self) -> RemoteListing:
        models: dict[str, RemoteModel] = {}
        for name, model in self._models.items():
            model.reason = model.reason or _problem(name, model)
            if model.reason or _is_model(model):
                models[name] = model
            else:
                self._ignore(
                    f"ignore {quoted(name)}: it has no {CONFIG_FILE}, no version folder such as '1', and no model file"
                )
        return RemoteListing(models, tuple(self._ignored))

    def _add_loose(self, name: str, each: RemoteObject) -> None:
        if name == CONFIG_FILE:
            raise ConfigError(
                f"'{self._start}' is a model's folder: give the prefix above it as the repository"
                if self._start
                else "the bucket is a model's folder: a repository has a folder for each model"
            )
        if name:
            self._ignore(f"ignore object {quoted(each.key)}: it is in no model's folder")

    def _ignore(self, line: str) -> None:
        if len(self._ignored) < SHOWN:
            self._ignored[line] = None


def chosen_versions(model: RemoteModel, config: ModelConfig | None) -> dict[str, RemoteObject]:
    """The model's files without those of versions that its policy does not select.

    Args:
        model: without a reason.
        config: parsed; None if it cannot be, and then only config.pbtxt is needed to say so.
    """
    if config is None:
        return {path: each for path, each in model.files.items() if path == CONFIG_FILE}
    tops = {path.partition("/")[0] for path in [*model.files, *model.folders] if "/" in path or path in model.folders}
    versions = {int(top): top for top in tops if _VERSION.match(top) and int(top) <= MAX_INT64}
    left_out = versions.keys() - set(config.version_policy.select(versions))
    skipped = {versions[number] for number in left_out}
    return {path: each for path, each in model.files.items() if path.partition("/")[0] not in skipped}


def folders_of(files: Collection[str], folders: Collection[str]) -> list[str]:
    """Every folder that the files and folders need, parents first."""
    needed: set[str] = set()
    for folder in [*[path.rpartition("/")[0] for path in files], *folders]:
        parts = folder.split("/") if folder else []
        needed.update("/".join(parts[:count]) for count in range(1, len(parts) + 1))
    return sorted(needed)


def _add(model: RemoteModel, path: str, each: RemoteObject) -> None:
    if model.reason:
        return
    is_folder = path.endswith("/") or not path
    parts = path.removesuffix("/").split("/") if path.strip("/") else []
    problem = next((found for part in parts if (found := _part_problem(part))), "")
    if problem:
        model.reason = f"object {quoted(each.key)} cannot be a file: {problem}"
    elif len(parts) > _MAX_DEPTH:
        model.reason = f"object {quoted(each.key)} is more than {_MAX_DEPTH} folders deep"
    elif path and not parts:
        model.reason = f"object {quoted(each.key)} cannot be a file: it has an empty name"
    elif len(model.files) + len(model.folders) >= MAX_FILES:
        model.reason = f"it has more than {MAX_FILES} objects"
    elif is_folder:
        if parts:
            model.folders.add("/".join(parts))
    else:
        model.files[path] = each


def _part_problem(part: str) -> str:
    """Why this cannot be a name in a folder."""
    if part in ("", ".", ".."):
        return f"it has a part {quoted(part)}"
    if not part.isprintable() or "\\" in part:
        return "it has a control character, a backslash or a character that cannot be printed"
    return f"a part has more than {_MAX_PART} bytes" if len(part.encode()) > _MAX_PART else ""


def _problem(name: str, model: RemoteModel) -> str:
    """Why these files do not make up a folder."""
    both = next((path for path in folders_of(model.files, model.folders) if path in model.files), None)
    if both is not None:
        return f"{quoted(both)} is a file and a folder at once: remove one of them"
    if name.isdecimal() and any(f in FILE_BACKEND for f in model.files):
        return f"'{name}' is a version's folder: put it into a model's folder"
    if not _is_model(model):
        stray = next((path for path in model.files if f".{path.rpartition('.')[2]}" in SUFFIX_BACKEND), None)
        if stray is not None and "/" not in stray:
            suffix = stray.rpartition(".")[2]
            return f"its file belongs in a version's folder: move '{name}/{stray}' to '{name}/1/model.{suffix}'"
        if stray is not None:
            return f"a version's folder is named by a number: rename '{name}/{stray.partition('/')[0]}' to '{name}/1'"
    return ""


def _is_model(model: RemoteModel) -> bool:
    """Whether a configuration or a version's folder makes this a model; nothing else is fetched."""
    tops = [path.partition("/")[0] for path in [*model.files, *model.folders] if "/" in path or path in model.folders]
    return CONFIG_FILE in model.files or any(top.isdecimal() for top in tops)


def same(first: Mapping[str, RemoteObject], second: Mapping[str, RemoteObject]) -> bool:
    """Whether two listings have the same files with the same content."""
    return dict(first) == dict(second)
