"""The desired state of a fleet's models, as records of the compacted control topic: to bytes and back. Pure.

Gateways write the records, workers and gateways follow them. The generation of a record is its offset in the topic, whose only
partition orders all changes: the later record of a key counts, whoever wrote it.

    model/<model>          `DesiredModel`: load or unload it, with which configuration and files
    aliases/<model>        `ModelAliases`: which versions a name such as `prod` stands for
    file/<sha256>/<part>   `MAX_PART` bytes of a file that a load call brought along
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, Final

from protocol.codec import micros
from protocol.errors import CodecError, InvalidArgument, quoted
from protocol.frames import WIRE_VERSION, pack, split_frame
from protocol.ports import Record
from protocol.tensors import Buffer

MAX_PART: Final = 8 * 1024 * 1024
"""Bytes of a file in one record."""
MAX_PATH: Final = 512
"""Characters of a file's path in its model's folder."""
MAX_NAME: Final = 255
"""Bytes of one part of it, as file systems allow."""
MODEL: Final = "model/"
ALIASES: Final = "aliases/"
FILE: Final = "file/"


@dataclasses.dataclass(frozen=True, slots=True)
class DesiredModel:
    """Whether a fleet should serve a model, and how. Of a model without a record, the workers' own settings decide.

    Attributes:
        model: its name.
        loaded: whether it should be served.
        config: JSON of a `ModelConfig` that replaces the repository's; "" for none.
        files: by path in the model's folder, such as `1/model.onnx`, the SHA-256 of each file that replaces the repository's.
        replicas: how many workers should serve it; 0 for all that can.
        pinned: it is never evicted.
        lease_until: when it is unloaded unless the lease is renewed; 0 for never. Seconds since the epoch, as all times here.
        idle_after: seconds without a request after which it is unloaded; 0 for never.
        digests: the only digests of versions that may be served; empty for any.
        at: when the record was written.
        by: the principal whose call wrote it.
    """

    model: str
    loaded: bool
    config: str = ""
    files: Mapping[str, str] = dataclasses.field(default_factory=dict)
    replicas: int = 0
    pinned: bool = False
    lease_until: float = 0.0
    idle_after: float = 0.0
    digests: tuple[str, ...] = ()
    at: float = 0.0
    by: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class AliasRoute:
    """What one alias stands for.

    Attributes:
        weights: (version, weight) with positive weights; a call goes to one version with a probability in proportion to its weight.
        shadow: version that gets a copy of the calls, whose answers are compared and never returned; "" for none.
        shadow_share: of the calls that are copied, 0 to 1.
    """

    weights: tuple[tuple[str, int], ...]
    shadow: str = ""
    shadow_share: float = 1.0


@dataclasses.dataclass(frozen=True, slots=True)
class ModelAliases:
    """All aliases of a model. Callers write `<model>@<alias>` for the model's name; "" is the alias of calls without a version.

    Attributes:
        routes: by alias.
        previous: the routes before the last change, for one rollback.
    """

    model: str
    routes: Mapping[str, AliasRoute]
    previous: Mapping[str, AliasRoute] = dataclasses.field(default_factory=dict)
    at: float = 0.0
    by: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Wish:
    """The newest desired state of a model.

    Attributes:
        generation: offset of its record.
    """

    generation: int
    entry: DesiredModel


@dataclasses.dataclass(frozen=True, slots=True)
class FilePart:
    """Where a part of a file is.

    Attributes:
        offset: of its record.
        size: in bytes.
        at: when it was written.
    """

    offset: int
    size: int
    at: float


class ControlTable:
    """What the control topic says: its records, applied in their order.

    The bytes of files are not kept: `files` says which record has them.

    Attributes:
        models: by name.
        aliases: by model.
        files: by digest and number of the part.
    """

    def __init__(self) -> None:
        self.models: dict[str, Wish] = {}
        self.aliases: dict[str, ModelAliases] = {}
        self.files: dict[str, dict[int, FilePart]] = {}

    def is_loaded(self, model: str) -> bool:
        """Whether a record says that the model should be served."""
        wish = self.models.get(model)
        return wish is not None and wish.entry.loaded

    def is_pinned(self, model: str) -> bool:
        """Whether that record also says that it is never evicted."""
        return self.is_loaded(model) and self.models[model].entry.pinned

    def apply(self, records: Iterable[Record]) -> list[str]:
        """Apply records; returns a problem per record that cannot be decoded."""
        problems: list[str] = []
        for record in records:
            try:
                self.apply_record(record)
            except CodecError as error:
                problems.append(f"{record.topic} offset {record.offset}: {error.message}")
        return problems

    def size_of(self, digest: str) -> int:
        """Bytes of a file; 0 if it is not there."""
        return sum(part.size for part in self.files.get(digest, {}).values())

    def unused(self, before: float) -> list[tuple[str, int]]:
        """(digest, part) of the files that no model names and that were written before this time."""
        named = {digest for wish in self.models.values() for digest in wish.entry.files.values()}
        return [
            (digest, number)
            for digest, parts in self.files.items()
            if digest not in named and all(part.at < before for part in parts.values())
            for number in parts
        ]

    def apply_record(self, record: Record) -> None:
        """Apply one record.

        Raises:
            CodecError: it cannot be decoded; nothing has changed.
        """
        key = bytes(record.key or b"").decode(errors="replace")
        gone = not len(record.value)
        if key.startswith(MODEL):
            name = key.removeprefix(MODEL)
            if gone:
                self.models.pop(name, None)
            elif (entry := decode_desired(record.value)).model == name:
                self.models[name] = Wish(record.offset, entry)
        elif key.startswith(ALIASES):
            name = key.removeprefix(ALIASES)
            if gone:
                self.aliases.pop(name, None)
            elif (aliases := decode_aliases(record.value)).model == name:
                self.aliases[name] = aliases
        elif key.startswith(FILE):
            self._apply_part(key, record)

    def _apply_part(self, key: str, record: Record) -> None:
        digest, _, number = key.removeprefix(FILE).rpartition("/")
        if not digest or not (number.isascii() and number.isdigit() and len(number) < 9):
            raise CodecError(f"{quoted(key)} is not the key of a part of a file")
        if len(record.value):
            part = FilePart(record.offset, len(record.value), record.timestamp)
            self.files.setdefault(digest, {})[int(number)] = part
        elif digest in self.files:
            self.files[digest].pop(int(number), None)
            if not self.files[digest]:
                del self.files[digest]


def encode_desired(entry: DesiredModel) -> tuple[bytes, bytes]:
    """(key, value) of a record of the control topic."""
    value = {
        "v": WIRE_VERSION, "model": entry.model, "loaded": entry.loaded, "config": entry.config, "files": dict(entry.files),
        "replicas": entry.replicas, "pinned": entry.pinned, "lease_until": micros(entry.lease_until),
        "idle_after": micros(entry.idle_after), "digests": list(entry.digests), "at": micros(entry.at), "by": entry.by,
    }  # fmt: skip
    return f"{MODEL}{entry.model}".encode(), pack(value)


def decode_desired(value: Buffer) -> DesiredModel:
    """The inverse of `encode_desired`.

    Raises:
        CodecError: the bytes are not the desired state of a model.
    """
    head = _head(value)
    try:
        return DesiredModel(
            str(head["model"]), bool(head["loaded"]), str(head["config"]),
            {str(path): str(digest) for path, digest in head["files"].items()}, int(head["replicas"]), bool(head["pinned"]),
            head["lease_until"] / 1e6, head["idle_after"] / 1e6, tuple(map(str, head["digests"])), head["at"] / 1e6,
            str(head["by"]),
        )  # fmt: skip
    except (AttributeError, KeyError, TypeError, ValueError) as exc:
        raise CodecError(f"the desired state of a model lacks or mistypes a field: {exc!r}") from None


def encode_aliases(entry: ModelAliases) -> tuple[bytes, bytes]:
    """(key, value) of a record of the control topic."""
    value = {
        "v": WIRE_VERSION, "model": entry.model, "routes": _routes(entry.routes), "previous": _routes(entry.previous),
        "at": micros(entry.at), "by": entry.by,
    }  # fmt: skip
    return f"{ALIASES}{entry.model}".encode(), pack(value)


def decode_aliases(value: Buffer) -> ModelAliases:
    """The inverse of `encode_aliases`.

    Raises:
        CodecError: the bytes are not a model's aliases.
    """
    head = _head(value)
    try:
        return ModelAliases(
            str(head["model"]), _routes_of(head["routes"]), _routes_of(head["previous"]), head["at"] / 1e6, str(head["by"])
        )  # fmt: skip
    except (AttributeError, KeyError, TypeError, ValueError) as exc:
        raise CodecError(f"a model's aliases lack or mistype a field: {exc!r}") from None


def file_key(digest: str, part: int) -> bytes:
    """The key of one part of a file; the record's value is the bytes."""
    return f"{FILE}{digest}/{part}".encode()


def check_path(path: str) -> None:
    """Check the path of a file that a load call brings along: below the model's folder, such as `1/model.onnx`.

    Raises:
        InvalidArgument: it is empty, too long, absolute, or has a part that is not a plain name.
    """
    parts = path.split("/")
    plain = all(part.isprintable() and "\\" not in part and not part.startswith(".") for part in parts)
    if not plain or "" in parts or len(path) > MAX_PATH or not path.isprintable():
        raise InvalidArgument(
            f"the file path {quoted(path)} must be relative, such as 1/model.onnx, without '.', '..' and '\\'"
        )
    try:
        long = any(len(part.encode()) > MAX_NAME for part in parts)
    except UnicodeEncodeError:
        long = True
    if long:
        raise InvalidArgument(f"the file path {quoted(path)} has a part that is no file name")


def _routes(routes: Mapping[str, AliasRoute]) -> dict[str, Any]:
    return {
        alias: [[list(weight) for weight in route.weights], route.shadow, route.shadow_share]
        for alias, route in routes.items()
    }


def _routes_of(value: Any) -> dict[str, AliasRoute]:
    return {
        str(alias): AliasRoute(
            tuple((str(version), int(weight)) for version, weight in weights), str(shadow), float(share)
        )
        for alias, (weights, shadow, share) in value.items()
    }


def _head(value: Buffer) -> dict[str, Any]:
    head, _ = split_frame(value)
    if head.get("v") != WIRE_VERSION:
        raise CodecError(f"a control record of wire version {quoted(head.get('v'))} is not known")
    return head
